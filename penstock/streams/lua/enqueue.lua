-- Put tasks into their streams, or park them until they are due. Sending an id again changes nothing,
-- so a producer may resend after a lost reply.
-- KEYS  1 base
-- ARGV  1 max_length (0: none); then per task 6: key, name, priority, due, expires, message
--       due and expires: '' (now, never), '+ms' from now, or 'ms' since the epoch
-- reply per task: 1 created, 0 exists, -1 queue full, the name of another task with this id, or '!error'
-- include: prelude
local most = tonumber(ARGV[1])
local now, soon, length, earlier, repeated, state

local function at(text)
  if text == '' then return nil end
  if not now then now, soon = clock() end
  local ms = tonumber(text)
  if text:byte(1) ~= 43 then return ms end
  return ms > 0 and soon + ms or now
end

local function park(key, due, message)
  local head = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
  call('ZADD', DUE, due, key)
  call('SET', PARKED .. key, message)
  if not head[2] or due < tonumber(head[2]) then earlier = due end
end

local function full()
  if most == 0 then return false end
  if not length then
    length = call('XLEN', STREAM .. 'high') + call('XLEN', STREAM .. 'default') + call('XLEN', STREAM .. 'low')
  end
  length = length + 1
  return length > most
end

local function enqueue(i)
  local key, name, priority, message = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 5]
  local record = RECORD .. key
  local known = call('HMGET', record, 's', 'n')
  if known[1] then
    if known[2] and known[2] ~= name then return known[2] end
    repeated, state = record, known[1]
    return 0
  end
  local due, expires = at(ARGV[i + 3]), at(ARGV[i + 4])
  if due and due > now then
    park(key, due, message)
    call('HSET', record, 'n', name, 's', 's', 't', now, 'u', due)
  else
    if full() then return -1 end
    local entry = call('XADD', STREAM .. priority, '*', 'k', key, 'm', message)
    -- 't' is left out while 'e' is the first entry: its id begins with the server's time.
    call('HSET', record, 'n', name, 's', 'q', 'e', entry)
  end
  if priority ~= 'default' then call('HSET', record, 'p', priority) end
  if expires then call('HSET', record, 'x', expires) end
  return 1
end

local out = {}
for i = 2, #ARGV, 6 do out[#out + 1] = guarded(enqueue, i) end
-- WAIT and WAITAOF speak of what their own connection has written; on one that has written nothing they
-- succeed at once (Redis 7 and later). So a repeat writes what is there already, whatever the memory.
if repeated then
  pass_maxmemory(STREAM .. 'default')
  redis.pcall('HSET', repeated, 's', state)
end
if earlier then redis.pcall('PUBLISH', base .. ':c', 'due ' .. (earlier - now)) end
return out
