-- Take over entries whose lease has run out: one step of a sweep of one stream.
-- A task that crashed two workers or more is a suspect: at most one at a time is started per worker, so
-- one poison task cannot bury those that ran beside it. The other suspects stay claimable.
-- KEYS  1 base
-- ARGV  1 consumer, 2 TTL in ms, 3 priority, 4 lease in ms, 5 cursor, 6 most entries, 7 suspects (0 or 1)
-- reply {now, entries taken, [priority, entry, key, message, retries, deliveries] flat, problem or '', next cursor, held}
-- include: prelude
local TTL = ARGV[2]
-- include: finish
-- include: admit
local me, priority, lease, suspects = ARGV[1], ARGV[3], ARGV[4], tonumber(ARGV[7])
local stream, now, out, taken, held = STREAM .. priority, clock(), {}, 0, 0

-- JUSTID leaves the delivery counter alone and names deleted entries on 6.2, too, where they would
-- otherwise come as nil and stay in the PEL for ever.
local claimed = call('XAUTOCLAIM', stream, 'w', me, lease, ARGV[5], 'COUNT', ARGV[6], 'JUSTID')
for _, entry in ipairs(claimed[2]) do
  local e = call('XRANGE', stream, entry, entry)[1]
  if not e then
    call('XACK', stream, 'w', entry)
  else
    local key = parse(e[2])
    local r = key and redis.pcall('HMGET', RECORD .. key, 's', 'w', 'd') or {}
    local deliveries = tonumber(r[3]) or 0
    if r[1] == 'r' and r[2] == me then
      -- XAUTOCLAIM gives back one's own: it runs here, and has just been renewed.
    elseif deliveries >= 2 and suspects < 1 then
      call('XCLAIM', stream, 'w', me, 0, entry, 'IDLE', lease, 'JUSTID')
      held = held + 1
    else
      if deliveries >= 2 then suspects = suspects - 1 end
      deliver(out, priority, entry, e[2], now, me)
      taken = taken + 1
    end
  end
end
return { now, taken, out, problem, claimed[1], held }
