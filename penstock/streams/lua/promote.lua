-- Move parked tasks that are due into their streams. Concurrent promoters do no harm. XADD, the write
-- that can fail, comes first: out of memory, the task just stays parked.
-- KEYS  1 base
-- ARGV  1 most tasks to move
-- reply {moved, ms until the next one is due (-1: none is parked), '!error' of the first that failed or '', and for each
--        that was moved by how many ms it was late}
-- include: prelude
local now, moved, problem, late = clock(), 0, '', {}
local parked = call('ZRANGEBYSCORE', DUE, '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[1])

local function promote(i)
  local key, due = parked[i], tonumber(parked[i + 1]) or now
  local message, record = call('GET', PARKED .. key), RECORD .. key
  local r = call('HMGET', record, 's', 'p')
  if message then
    local entry = call('XADD', STREAM .. (r[2] or 'default'), '*', 'k', key, 'm', message)
    call('HSET', record, 's', 'q', 'e', entry)
    call('DEL', PARKED .. key)
    moved = moved + 1
    late[moved] = math.min(now - due, 1e12) -- somebody else may have written -inf
  elseif r[1] == 's' then
    call('PEXPIRE', record, 86400000) -- the server has lost its message: it must not stay for ever
  end
  call('ZREM', DUE, key)
  return ''
end

for i = 1, #parked, 2 do
  local reply = guarded(promote, i)
  if reply ~= '' and problem == '' then problem = reply end
end
local head = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
return { moved, head[2] and math.max(0, tonumber(head[2]) - now) or -1, problem, late }
