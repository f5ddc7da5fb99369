-- Start entries that a blocking read delivered to this consumer (XREADGROUP BLOCK cannot run in a script).
-- KEYS  1 base
-- ARGV  1 consumer, 2 TTL in ms of records that end here, then pairs: priority, entry
-- reply {now, entries seen (without those put back, as the queue is paused),
--        [priority, entry, key, message, retries, deliveries, since] flat, problem or ''}
-- include: prelude
local TTL = ARGV[2]
-- include: finish
-- include: admit
local me, now, out, seen = ARGV[1], clock(), {}, 0

-- One that `arrived.lua` has started in a reply that was looked at too late. (The worker asks for none that it runs.)
-- Nobody has begun with it, so it ends here if it was cancelled since.
local function ended_since(stream, entry, fields)
  local key = parse(fields)
  local r = key and redis.pcall('HMGET', RECORD .. key, 's', 'e', 'w', 'c') or {}
  if r[1] ~= 'r' or r[2] ~= entry or r[3] ~= me or not r[4] then return false end
  end_unstarted(RECORD .. key, 'c', 'cancelled', now)
  drop(stream, entry)
  return true
end

for i = 3, #ARGV, 2 do
  local stream, entry = STREAM .. ARGV[i], ARGV[i + 1]
  pass_maxmemory(stream)
  -- Still ours? A stall between the read and this call may have lost it to another worker.
  if owns(me, stream, entry) then
    local e = call('XRANGE', stream, entry, entry)[1]
    local before = #out
    if not e then
      call('XACK', stream, 'w', entry)
    elseif not ended_since(stream, entry, e[2]) then
      deliver(out, ARGV[i], entry, e[2], now, me)
    end
    if not paused or #out > before then seen = seen + 1 end
  end
end
return { now, seen, out, problem }
