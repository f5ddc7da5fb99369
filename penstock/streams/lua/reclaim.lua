-- Take over entries whose lease has run out: one step of a sweep of one stream.
-- A task that crashed two workers or more is a suspect: at most one at a time is started per worker, so
-- one poison task cannot bury those that ran beside it. The other suspects stay claimable.
-- XAUTOCLAIM also gives back one's own: either it runs here and its renewal is late, or the reply that
-- brought it was lost. The worker knows which: such entries are in the reply, uncounted and unchanged.
-- One step passes over any number of living entries if there are few enough of them, else over LOOK: a
-- worker with one free slot must not need a round trip for each ten (XAUTOCLAIM looks at 10 x COUNT).
-- KEYS  1 base
-- ARGV  1 consumer, 2 TTL in ms, 3 priority, 4 lease in ms, 5 cursor, 6 most entries, 7 suspects (0 or 1),
--       8 delivered entries up to which all are passed over in one step, 9 ms: the server's time until which it may be
--       carried out; 0: at any
-- reply {now (after the last moment: nothing was done), entries taken (-1: paused), [priority, entry, key, message, retries, deliveries, since] flat, problem or '', next cursor, held}
-- include: prelude
local TTL = ARGV[2]
-- include: finish
-- include: admit
if paused then return { clock(), -1, {}, '', '0-0', 0 } end
-- Sent before the server stood still, and carried out after it: every lease looks as if it had run out.
local latest = tonumber(ARGV[9])
if latest > 0 and clock() > latest then return { clock(), 0, {}, '', '0-0', 0 } end
local me, priority, lease, suspects = ARGV[1], ARGV[3], ARGV[4], tonumber(ARGV[7])
local stream, now, out, taken, held = STREAM .. priority, clock(), {}, 0, 0
local cursor, most, looked, LOOK = ARGV[5], tonumber(ARGV[6]), 0, 1000

local function take_over(entry)
  local e = call('XRANGE', stream, entry, entry)[1]
  if not e then return call('XACK', stream, 'w', entry) end
  local key, message = parse(e[2])
  local deliveries, retries, since = started(key, entry, me)
  if retries then
    hand_out(out, priority, entry, key, message, retries, deliveries, since)
  elseif deliveries >= 2 and suspects < 1 then
    call('XCLAIM', stream, 'w', me, 0, entry, 'IDLE', lease, 'JUSTID')
    held = held + 1
  else
    if deliveries >= 2 then suspects = suspects - 1 end
    deliver(out, priority, entry, e[2], now, me)
    taken = taken + 1
  end
end

-- XPENDING IDLE passes over a living entry in 0.06 to 0.15 us; XAUTOCLAIM needs 0.4 to 1.5 from 7.0 on, since it
-- looks into the stream for each. But XPENDING does not stop before it has found one, hence the bound.
local few = (ask('XPENDING', stream, 'w')[1] or 0) <= tonumber(ARGV[8])

repeat
  local next = few and ask('XPENDING', stream, 'w', 'IDLE', lease, cursor, '+', 1)
  if next and #next == 0 then
    cursor = '0-0'
  else
    local count = math.min(most - taken, LOOK / 10)
    -- JUSTID leaves the delivery counter alone and names deleted entries on 6.2, too, where they would
    -- otherwise come as nil and stay in the PEL for ever.
    local claimed = ask('XAUTOCLAIM', stream, 'w', me, lease, next and next[1][1] or cursor, 'COUNT', count, 'JUSTID')
    for _, entry in ipairs(claimed[2] or {}) do take_over(entry) end
    cursor, looked = claimed[1] or '0-0', looked + 10 * count
  end
until cursor == '0-0' or taken >= most or looked >= LOOK
return { now, taken, out, problem, cursor, held }
