-- Take over entries whose lease has run out: one step of a sweep of one stream.
-- A task that crashed two workers or more is a suspect: at most one at a time is started per worker, so
-- one poison task cannot bury those that ran beside it. The other suspects stay claimable.
-- XAUTOCLAIM also gives back one's own: either it runs here and its renewal is late, or the reply that
-- brought it was lost. The worker knows which: such entries are in the reply, uncounted and unchanged.
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
local claimed = ask('XAUTOCLAIM', stream, 'w', me, lease, ARGV[5], 'COUNT', ARGV[6], 'JUSTID')
for _, entry in ipairs(claimed[2] or {}) do
  local e = call('XRANGE', stream, entry, entry)[1]
  if not e then
    call('XACK', stream, 'w', entry)
  else
    local key, message = parse(e[2])
    local deliveries, retries = started(key, entry, me)
    if retries then
      hand_out(out, priority, entry, key, message, retries, deliveries)
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
return { now, taken, out, problem, claimed[1] or '0-0', held }
