-- Shared by every script of a queue. KEYS[1] is the queue's base, '{namespace:queue}'; all other keys
-- are that base plus a suffix (streams/keys.py), so whatever a script touches is in one slot.
-- (KEYS[2] is unused: two keys make Cluster refuse a script while the slot is on its way, see `keys.routed`.)
local call, base = redis.call, KEYS[1]
local RECORD, PARKED, RESULT, STREAM = base .. ':t:', base .. ':p:', base .. ':r:', base .. ':s:'
local DUE, DEAD, PAUSED, COUNTERS, MEASURES = base .. ':z', base .. ':dead', base .. ':paused', base .. ':m', base .. ':h'
local FINISHED = { o = true, f = true, c = true, e = true }

-- The server's clock is the only one: workers' and producers' clocks may differ. In whole ms, rounded down, and
-- rounded up: what is due some ms from now must not be early by a part of one.
local function clock()
  local t = call('TIME')
  local ms = t[1] * 1000 + t[2] / 1000
  return math.floor(ms), math.ceil(ms)
end

-- 'b' and 'f' of a record are kept as ms from the time of its entry on, with which the id begins: that takes 2 to 4
-- bytes, a time takes 10. Where it would be more than 3 years they are kept as they are, and so told apart. As text:
-- up to Redis 7.0 it takes 0.3 us to print a number of Lua's.
local function from_entry(entry, now)
  local ms = now - (tonumber(entry:match('^%d+')) or 0)
  return string.format('%.0f', math.abs(ms) < 1e11 and ms or now)
end

local function to_time(entry, ms)
  ms = tonumber(ms) or 0
  return string.format('%.0f', math.abs(ms) < 1e11 and ms + (tonumber(entry:match('^%d+')) or 0) or ms)
end

-- A batch isolates its items: one that fails answers '!message' and the others go on.
-- (The error is a string on Redis 6.2 and a table from 7.0 on.)
local function guarded(step, i)
  local ok, reply = pcall(step, i)
  if ok then return reply end
  return '!' .. tostring(type(reply) == 'table' and reply.err or reply)
end

-- A question about a group: nothing is there when the group is gone (FLUSHALL, DEL) or the key is no stream.
local function ask(...)
  local reply = redis.pcall(...)
  if not reply.err then return reply end
  if reply.err:find('NOGROUP', 1, true) or reply.err:find('WRONGTYPE', 1, true) then return {} end
  error(reply.err)
end

local function owns(me, stream, entry)
  return #ask('XPENDING', stream, 'w', entry, entry, 1, me) == 1
end

-- From here on maxmemory refuses this script nothing: that is checked before its first write only, and
-- XACK (here of an entry that is not there) needs no memory. Work that is started gives memory back.
local function pass_maxmemory(stream)
  redis.pcall('XACK', stream, 'w', '0-0')
end

local function count(outcome, name, n)
  redis.pcall('HINCRBY', COUNTERS, outcome .. '|' .. name, n or 1)
end

-- Remove an entry from its stream for good. XACK comes first: 6.2 keeps deleted entries in the PEL.
local function drop(stream, entry)
  call('XACK', stream, 'w', entry)
  call('XDEL', stream, entry)
end

-- Up to so many characters of UTF-8, without controls.
local function is_text(key, most)
  if not key:find('[^ -~]') then return #key > 0 and #key <= most end
  -- Controls; too long forms, surrogates, and what is beyond U+10FFFF; then nothing but whole characters.
  if #key > 4 * most or key:find('[%z\1-\31\127]') then return false end
  if key:find('\224[\128-\159]') or key:find('\237[\160-\191]') then return false end
  if key:find('\240[\128-\143]') or key:find('\244[\144-\191]') then return false end
  local rest = key:gsub('[\194-\223][\128-\191]', '_'):gsub('[\224-\239][\128-\191][\128-\191]', '_')
  rest = rest:gsub('[\240-\244][\128-\191][\128-\191][\128-\191]', '_')
  return #rest <= most and not rest:find('[\128-\255]')
end

-- No producer sends a key of another kind, and it could neither be shown nor be asked for.
local function is_key(key) return is_text(key, 200) end

-- 'k', key, 'm', message of an entry; nil when somebody else wrote it.
local function parse(fields)
  if #fields == 4 and fields[1] == 'k' and fields[3] == 'm' and is_key(fields[2]) then
    return fields[2], fields[4]
  end
end
