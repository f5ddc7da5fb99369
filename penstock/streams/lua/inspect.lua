-- How much a queue holds, and what was counted and measured of it. Reads only.
-- ready = XLEN - pending: exact, because what has ended is acked and deleted in one step. (XINFO's own
-- `lag` turns nil with the first deleted entry, on all servers.)
-- KEYS  1 base
-- ARGV  1 ms after which an entry that nobody has renewed is overdue
-- reply {numbers (msgpack: now in ms, parked, when the first parked is due in ms, parked and due, dead, since when it is
--        paused in ms, then per priority: entries, delivered, time of the oldest undelivered entry in ms, of the oldest
--        delivered one, overdue, delivered more than once, consumers, entries ever added; -1: there is none), counters,
--        measures}
-- include: prelude
local lease = ARGV[1]
-- Overdue entries are counted up to MOST of each priority. Those delivered more than once are among the oldest, since
-- they keep their ids: looking at a few finds them.
local MOST, OLDEST = 1000, 100

-- Others may have written what is no time of this world, and msgpack of Lua's infinity is no whole number.
local function whole(value)
  value = tonumber(value)
  return value and value == value and math.floor(math.max(-1, math.min(value, 1e15))) or -1
end

local function time_of(entry)
  return whole(entry:match('^%d+'))
end

-- XINFO's replies are lists of names and values; with a table beside each name the values can be asked for.
local function fields(flat)
  local found = {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

local function lane(stream)
  local length = call('XLEN', stream)
  local pending, last, consumers, ready, running, overdue, again = 0, '0-0', 0, -1, -1, 0, 0
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups.err then
    if groups.err:find('no such key', 1, true) then return { 0, 0, -1, -1, 0, 0, 0, 0 } end
    error(groups.err)
  end
  for _, group in ipairs(groups) do
    local g = fields(group)
    if g.name == 'w' then pending, last, consumers = g.pending, g['last-delivered-id'], g.consumers end
  end
  if length > pending then
    local oldest = call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1]
    if oldest then ready = time_of(oldest[1]) end
  end
  if pending > 0 then
    overdue = #call('XPENDING', stream, 'w', 'IDLE', lease, '-', '+', MOST)
    for i, entry in ipairs(call('XPENDING', stream, 'w', '-', '+', OLDEST)) do
      if i == 1 then running = time_of(entry[1]) end
      if entry[4] > 1 then again = again + 1 end
    end
  end
  -- 'entries-added': from Redis 7.0 on.
  local added = fields(call('XINFO', 'STREAM', stream))['entries-added'] -- from Redis 7.0 on
  return { length, pending, ready, running, overdue, again, consumers, whole(added) }
end

local now = clock()
local first = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
local out = { now, call('ZCARD', DUE), whole(first[2]), call('ZCOUNT', DUE, '-inf', '(' .. now), call('ZCARD', DEAD),
  whole(call('GET', PAUSED)) }
for _, priority in ipairs({ 'high', 'default', 'low' }) do
  for _, number in ipairs(lane(STREAM .. priority)) do out[#out + 1] = number end
end
return { cmsgpack.pack(out), call('HGETALL', COUNTERS), call('HGETALL', MEASURES) }
