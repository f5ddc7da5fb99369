-- How much a queue holds, and what was counted and measured of it. Reads only.
-- ready = XLEN - pending: exact, because what has ended is acked and deleted in one step. (XINFO's own
-- `lag` turns nil with the first deleted entry, on all servers.)
-- KEYS  1 base
-- ARGV  1 ms after which an entry that nobody has renewed is overdue
-- reply msgpack {numbers {parked, ms until the first of them is due, parked and due, dead, ms since it was paused, then
--        per priority: entries, delivered, ms since the oldest undelivered entry was added, since the oldest delivered
--        one, overdue, delivered more than once, consumers, entries ever added}, counters {{what, index of the task's
--        name, count}, ..}, measures {{what, index, numbers}, ..}, names of tasks}; NONE where there is nothing.
-- In one piece: each string of a reply by itself has 6 bytes of its own, and there would be more of them than of
-- numbers.
-- include: prelude
local lease, now = ARGV[1], clock()
local NONE = -9007199254740992 -- 2^53: beyond it a number of Lua is not exact
-- Overdue entries are counted up to MOST of each priority. Those delivered more than once are among the oldest, since
-- they keep their ids: looking at a few finds them.
local MOST, OLDEST = 1000, 100

-- Others may have written what is no number of this world, and msgpack of Lua's infinity is no whole number.
local function whole(value, most)
  value = tonumber(value)
  most = most or -1 - NONE
  return value and value == value and math.floor(math.max(-most, math.min(value, most))) or NONE
end

local function since(ms)
  ms = tonumber(ms)
  return ms and whole(now - ms) or NONE
end

local function age_of(entry)
  return math.max(0, since(entry:match('^%d+'))) -- the clock may have been set back
end

-- XINFO's replies are lists of names and values; with a table beside each name the values can be asked for.
local function fields(flat)
  local found = {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

local function lane(stream)
  local length = call('XLEN', stream)
  local pending, last, consumers, ready, running, overdue, again = 0, '0-0', 0, NONE, NONE, 0, 0
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups.err then
    if groups.err:find('no such key', 1, true) then return { 0, 0, NONE, NONE, 0, 0, 0, 0 } end
    error(groups.err)
  end
  for _, group in ipairs(groups) do
    local g = fields(group)
    if g.name == 'w' then pending, last, consumers = g.pending, g['last-delivered-id'], g.consumers end
  end
  if length > pending then
    local oldest = call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1]
    if oldest then ready = age_of(oldest[1]) end
  end
  if pending > 0 then
    overdue = #call('XPENDING', stream, 'w', 'IDLE', lease, '-', '+', MOST)
    for i, entry in ipairs(call('XPENDING', stream, 'w', '-', '+', OLDEST)) do
      if i == 1 then running = age_of(entry[1]) end
      if entry[4] > 1 then again = again + 1 end
    end
  end
  local added = fields(call('XINFO', 'STREAM', stream))['entries-added'] -- from Redis 7.0 on
  return { length, pending, ready, running, overdue, again, consumers, whole(added) }
end

-- Fields are text: a task's name (200 characters), after what is counted of it.
local FIELD = 300
-- Sums of microseconds: in 64 bits, since 53 are over in two days of a queue that is far behind.
local SUM = 9e18

-- Each task's name is in several fields, and is sent once.
local names, index_of = {}, {}
local function index(name)
  if not index_of[name] then
    names[#names + 1] = name
    index_of[name] = #names - 1
  end
  return index_of[name]
end

-- What is counted ('succeeded', 'r', 'f|reason'), and the index of the task's name.
local function parts(field)
  local what, name = field:match('^(f|[^|]*)|(.*)$')
  if not what then what, name = field:match('^([^|]*)|(.*)$') end
  return what or field, index(name or '')
end

local function counters()
  local found, out = call('HGETALL', COUNTERS), {}
  for i = 1, #found, 2 do
    local count = whole(found[i + 1])
    if count >= 0 and is_text(found[i], FIELD) then
      local what, name = parts(found[i])
      out[#out + 1] = { what, name, count }
    end
  end
  return out
end

local function measures()
  local found, out = call('HGETALL', MEASURES), {}
  for i = 1, #found, 2 do
    local ok, numbers = pcall(cmsgpack.unpack, found[i + 1])
    if ok and type(numbers) == 'table' and is_text(found[i], FIELD) then
      local what, name = parts(found[i])
      local sums = {}
      for n, sum in ipairs(numbers) do sums[n] = whole(sum, SUM) end
      out[#out + 1] = { what, name, sums }
    end
  end
  return out
end

local first = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2]
local out = { call('ZCARD', DUE), first and -since(first) or NONE, call('ZCOUNT', DUE, '-inf', '(' .. now),
  call('ZCARD', DEAD), since(call('GET', PAUSED)) }
for _, priority in ipairs({ 'high', 'default', 'low' }) do
  for _, number in ipairs(lane(STREAM .. priority)) do out[#out + 1] = number end
end
return cmsgpack.pack({ out, counters(), measures(), names })
