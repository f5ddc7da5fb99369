-- After a reader fault: entries that this consumer owns and does not run, because a reply was lost.
-- XPENDING + XRANGE have no side effect; reading id 0 would bump every counter and reset every idle time.
-- KEYS  1 base
-- ARGV  1 consumer, 2 TTL in ms, 3 priority, 4 most entries to return, then the entries in flight here
-- reply {now, entries found, [priority, entry, key, message, retries, deliveries] flat, problem or ''}
-- include: prelude
local TTL = ARGV[2]
-- include: finish
-- include: admit
local me, priority, most, now = ARGV[1], ARGV[3], tonumber(ARGV[4]), clock()
local stream, running, out, found = STREAM .. priority, {}, {}, 0
for i = 5, #ARGV do running[ARGV[i]] = true end

local function started_here(fields)
  local key = parse(fields)
  if not key then return nil end
  local r = redis.pcall('HMGET', RECORD .. key, 's', 'w', 'a', 'd')
  if r[1] ~= 'r' then return nil end
  return r[2] == me, tonumber(r[3]) or 0, tonumber(r[4]) or 1
end

for _, p in ipairs(call('XPENDING', stream, 'w', '-', '+', #ARGV - 4 + most, me)) do
  local entry = p[1]
  if not running[entry] and found < most then
    local e = call('XRANGE', stream, entry, entry)[1]
    if e then
      local mine, retries, deliveries = started_here(e[2])
      if mine then -- admitted by a fetch whose reply was lost: hand it out, and count it once
        local n = #out
        out[n + 1], out[n + 2], out[n + 3] = priority, entry, e[2][2]
        out[n + 4], out[n + 5], out[n + 6] = e[2][4], retries, deliveries
        found = found + 1
      elseif mine == nil then -- read, but never admitted
        deliver(out, priority, entry, e[2], now, me)
        found = found + 1
      end -- else: a suspect that a reclaim holds back; its turn comes there
    else
      call('XACK', stream, 'w', entry)
    end
  end
end
return { now, found, out, problem }
