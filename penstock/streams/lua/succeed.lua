-- Store success. The first one wins, whoever owns the entry now: XACK answering 1 is the
-- compare-and-set. It also lets the rest pass when maxmemory is reached, since a script's writes are
-- only refused before its first one.
-- KEYS  1 base
-- ARGV  1 consumer, 2 least TTL in ms of a record; then runs of tasks that are alike: priority, task name,
--       result TTL in ms (0: store none), how many; for each of them: entry, key, encoded result
-- reply per task: 1 stored, 2 stored by an earlier send of this call, 0 late, or '!error'
-- include: prelude
-- include: finish
local me, window, now = ARGV[1], ARGV[2], clock()
local stream, ttl, keep, entries

-- 'v' is the result; left out it is nil, as of tasks that return nothing, and '' if the result is to be looked for
-- in a key of its own: a field of more than 64 bytes would turn the small hash into a large one, for good.
local function store(record, key, waiting, time, value)
  if value == '\192' and ttl ~= '0' then
    return finish(record, waiting, 'o', time, keep, 'w', me)
  elseif ttl == '0' then
    value = ''
  elseif #value > 64 then
    call('SET', RESULT .. key, value, 'PX', ttl)
    value = ''
  end
  finish(record, waiting, 'o', time, keep, 'w', me, 'v', value)
end

local function succeed(i)
  local entry, key = ARGV[i], ARGV[i + 1]
  local record = RECORD .. key
  local waiting = waiting_for(record)
  if call('XACK', stream, 'w', entry) == 0 then
    local r = call('HMGET', record, 's', 'e', 'w')
    return r[1] == 'o' and r[2] == entry and r[3] == me and 2 or 0
  end
  entries[#entries + 1] = entry
  store(record, key, waiting, from_entry(entry, now), ARGV[i + 2])
  return 1
end

local out, i = {}, 3
while i < #ARGV do
  stream, ttl, entries = STREAM .. ARGV[i], ARGV[i + 2], {}
  keep = tonumber(ttl) > tonumber(window) and ttl or window
  local name, last = ARGV[i + 1], i + 1 + 3 * ARGV[i + 3]
  for task = i + 4, last, 3 do out[#out + 1] = guarded(succeed, task) end
  if #entries > 0 then
    call('XDEL', stream, unpack(entries))
    count('succeeded', name, #entries)
  end
  i = last + 3
end
return out
