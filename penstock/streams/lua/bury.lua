-- End a task without success: failed (it becomes a dead letter, kept for redrive) or cancelled.
-- Needs ownership; the writes that can fail come before XACK.
-- KEYS  1 base
-- ARGV  1 consumer, 2 TTL in ms of a cancelled record, 3 dead TTL in ms, 4 most dead letters;
--       then per task 7: priority, entry, key, task name, state ('f' or 'c'), failure, message
-- reply per task: 1 ended, 2 ended by an earlier send, 0 not ours, or '!error'
-- include: prelude
-- include: finish
local me, TTL, dead_ttl, most, now = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), clock()

local function bury(i)
  local entry, key, name, state = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local stream, record = STREAM .. ARGV[i], RECORD .. key
  local waiting = waiting_for(record)
  if not owns(me, stream, entry) then
    local r = call('HMGET', record, 's', 'e', 'w')
    return r[1] == state and r[2] == entry and r[3] == me and 2 or 0
  end
  if state == 'f' then
    call('ZADD', DEAD, now, key)
    call('SET', PARKED .. key, ARGV[i + 6], 'PX', dead_ttl)
    call('SET', RESULT .. key, ARGV[i + 5], 'PX', dead_ttl)
    finish(record, waiting, 'f', now, dead_ttl, 'n', name, 'p', ARGV[i], 'e', entry, 'w', me)
  else
    finish(record, waiting, state, now, TTL)
  end
  drop(stream, entry)
  count(state == 'f' and 'failed' or 'cancelled', name)
  return 1
end

local out = {}
for i = 5, #ARGV, 7 do out[#out + 1] = guarded(bury, i) end

local function trim()
  call('ZREMRANGEBYSCORE', DEAD, '-inf', now - dead_ttl)
  local surplus = call('ZCARD', DEAD) - most
  if surplus < 1 then return end
  for _, key in ipairs(call('ZRANGE', DEAD, 0, surplus - 1)) do
    -- An id may have been sent anew since its record ran out: then these keys are the living task's.
    if redis.pcall('HGET', RECORD .. key, 's') == 'f' then
      call('DEL', PARKED .. key, RESULT .. key)
      call('PEXPIRE', RECORD .. key, TTL)
    end
    call('ZREM', DEAD, key)
  end
  count('trimmed', '', surplus)
end

guarded(trim) -- if the key holds another type, the answers say so: as an error of the call they would be lost
return out
