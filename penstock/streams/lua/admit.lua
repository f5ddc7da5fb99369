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
for i = 3, #ARGV, 2 do
  local stream, entry = STREAM .. ARGV[i], ARGV[i + 1]
  pass_maxmemory(stream)
  -- Still ours? A stall between the read and this call may have lost it to another worker.
  if owns(me, stream, entry) then
    local e = call('XRANGE', stream, entry, entry)[1]
    local before = #out
    if e then deliver(out, ARGV[i], entry, e[2], now, me) else call('XACK', stream, 'w', entry) end
    if not paused or #out > before then seen = seen + 1 end
  end
end
return { now, seen, out, problem }
