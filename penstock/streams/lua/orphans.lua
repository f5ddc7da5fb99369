-- After a reader fault: entries that this consumer owns and does not run, because a reply was lost.
-- XPENDING + XRANGE have no side effect; reading id 0 would bump every counter and reset every idle time.
-- KEYS  1 base
-- ARGV  1 consumer, 2 TTL in ms, 3 priority, 4 most entries to return, then the entries in flight here
-- reply {now, entries found (-1: the queue is paused),
--        [priority, entry, key, message, retries, deliveries, since] flat, problem or ''}
-- include: prelude
local TTL = ARGV[2]
-- include: finish
-- include: admit
if paused then return { clock(), -1, {}, '' } end -- their leases run out
local PAGE = 100
local me, priority, most, now = ARGV[1], ARGV[3], tonumber(ARGV[4]), clock()
local stream, running, out, found = STREAM .. priority, {}, {}, 0
for i = 5, #ARGV do running[ARGV[i]] = true end
pass_maxmemory(stream)

local function adopt(entry)
  local e = call('XRANGE', stream, entry, entry)[1]
  if not e then return call('XACK', stream, 'w', entry) end
  local key, message = parse(e[2])
  local deliveries, retries, since = started(key, entry, me)
  if retries then -- by a fetch whose reply was lost: hand it out, and count it once
    hand_out(out, priority, entry, key, message, retries, deliveries, since)
  elseif deliveries >= 2 then -- a suspect that a reclaim holds back; its turn comes there
    return
  else -- read, but never admitted
    deliver(out, priority, entry, e[2], now, me)
  end
  found = found + 1
end

local page, from = nil, '-'
repeat
  page = ask('XPENDING', stream, 'w', from, '+', PAGE, me)
  for _, p in ipairs(page) do
    if not running[p[1]] and found < most then adopt(p[1]) end
    from = '(' .. p[1]
  end
until #page < PAGE or found >= most
return { now, found, out, problem }
