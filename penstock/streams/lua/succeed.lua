-- Store success. The first one wins, whoever owns the entry now: XACK answering 1 is the
-- compare-and-set. It also lets the rest pass when maxmemory is reached, since a script's writes are
-- only refused before its first one.
-- KEYS  1 base
-- ARGV  1 consumer, 2 least TTL in ms of a record; then per task 6: priority, entry, key, task name,
--       result TTL in ms (0: store none), encoded result
-- reply per task: 1 stored, 2 stored by an earlier send of this call, 0 late, or '!error'
-- include: prelude
-- include: finish
local me, window, now = ARGV[1], tonumber(ARGV[2]), clock()
local done, counts = {}, {}

local function succeed(i)
  local stream, entry, key, ttl, value = STREAM .. ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 4]), ARGV[i + 5]
  local waiting = waiting_for(key)
  if call('XACK', stream, 'w', entry) == 0 then
    local r = call('HMGET', RECORD .. key, 's', 'e', 'w')
    return r[1] == 'o' and r[2] == entry and r[3] == me and 2 or 0
  end
  local entries, name = done[stream], ARGV[i + 3]
  if not entries then
    entries = {}
    done[stream] = entries
  end
  entries[#entries + 1] = entry
  counts[name] = (counts[name] or 0) + 1
  local keep = ttl > window and ttl or window
  if ttl == 0 then
    finish(key, waiting, 'o', now, keep, 'w', me)
  elseif #value <= 64 then -- a longer field would turn the small hash into a large one, for good
    finish(key, waiting, 'o', now, keep, 'w', me, 'v', value)
  else
    call('SET', RESULT .. key, value, 'PX', ttl)
    finish(key, waiting, 'o', now, keep, 'w', me)
  end
  return 1
end

local out = {}
for i = 3, #ARGV, 6 do out[#out + 1] = guarded(succeed, i) end
for stream, entries in pairs(done) do call('XDEL', stream, unpack(entries)) end
for name, n in pairs(counts) do count('succeeded', name, n) end
return out
