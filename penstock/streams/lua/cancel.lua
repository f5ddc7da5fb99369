-- Cancel tasks. What waits ends at once, also when no worker is up; what runs is flagged, and its worker
-- told. A success that is already there wins.
-- KEYS  1 base
-- ARGV  1 TTL in ms of records that end here, 2 token of this call, then keys
-- reply per key: '' unknown, 'C' cancelled now, 'R' requested, the letter of the state it ended in, or '!error'
-- include: prelude
-- include: finish
-- The flag is the token, so that a call whose reply was lost gets the same answer when it is sent again.
local TTL, token, now = ARGV[1], ARGV[2], clock()

local function ended(record)
  finish(record, waiting_for(record), 'c', now, TTL, 'c', token)
  count('cancelled', call('HGET', record, 'n') or '?')
  return 'C'
end

local function cancel(i)
  local key = ARGV[i]
  local record = RECORD .. key
  local r = call('HMGET', record, 's', 'e', 'p', 'c')
  local state, entry = r[1], r[2]
  if not state then return '' end
  if state == 'c' and r[4] == token then return 'C' end
  if FINISHED[state] then return state end
  if state == 's' then
    call('ZREM', DUE, key)
    call('DEL', PARKED .. key)
    return ended(record)
  end
  local stream = STREAM .. (r[3] or 'default')
  local pending = redis.pcall('XPENDING', stream, 'w', entry, entry, 1)
  if state == 'q' and (pending.err or #pending == 0) then
    call('XDEL', stream, entry) -- undelivered, so no ghost is left in a PEL
    return ended(record)
  end
  call('HSET', record, 'c', token)
  redis.pcall('PUBLISH', base .. ':c', 'cancel ' .. key)
  return 'R'
end

local out = {}
for i = 3, #ARGV do out[#out + 1] = guarded(cancel, i) end
return out
