-- Move parked tasks that are due into their streams. Concurrent promoters do no harm. XADD, the write
-- that can fail, comes first: out of memory, the task just stays parked.
-- KEYS  1 base
-- ARGV  1 most tasks to move
-- reply {moved, ms until the next one is due (-1: none is parked), '!error' of the first that failed or ''}
-- include: prelude
local now, moved, problem = clock(), 0, ''

local function promote(key)
  local message = call('GET', PARKED .. key)
  local priority = call('HGET', RECORD .. key, 'p') or 'default'
  if message then
    local entry = call('XADD', STREAM .. priority, '*', 'k', key, 'm', message)
    call('HSET', RECORD .. key, 's', 'q', 'e', entry)
    call('DEL', PARKED .. key)
    moved = moved + 1
  end
  call('ZREM', DUE, key)
  return ''
end

for _, key in ipairs(call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local reply = guarded(promote, key)
  if reply ~= '' and problem == '' then problem = reply end
end
local head = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
return { moved, head[2] and math.max(0, tonumber(head[2]) - now) or -1, problem }
