-- All workers for who counts them: what each says of itself, but for its queues; and of each queue what they say together.
-- A hundred workers that serve a hundred queues each would else tell ten thousand names.
-- KEYS  1 workers (sorted set), 2 gone (sorted set)
-- ARGV  1 what the workers' own keys begin with (same slot), 2 ms since its last heartbeat up to which one lives
-- reply msgpack {now in ms, workers: {consumer, last heartbeat in ms, host, pid, started at in s, slots, busy, resident
--       bytes, greatest lag of the loop in s, s for which it was blocked, version, python, lease in s},
--       queues: {name, living workers, their slots for it, busy ones}}
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local workers, queues, seen = {}, {}, {}

-- What others have written must not blind who looks: it may be no text, and no number.
local function text(value) return (tostring(value or ''):sub(1, 200):gsub('[^ -~]', '?')) end
local function number(value)
  value = tonumber(value) or 0
  return value == value and math.abs(value) < 1e15 and value or 0
end
local function whole(value)
  if type(value) == 'number' and value >= 0 and value < 1e15 then return value - value % 1 end -- nearly all are
  return math.floor(number(value))
end
local function numbers(value) return type(value) == 'table' and value or {} end

-- nil: forgotten.
local function said(consumer)
  local about = redis.call('GET', ARGV[1] .. consumer)
  if not about then return nil end
  local ok, found = pcall(cmsgpack.unpack, about)
  return ok and type(found) == 'table' and found or {}
end

-- Queues by name, as it was said and as it is shown. Most of the time of this script goes into the lines that a hundred
-- workers have for a hundred queues each: what is the same for all of them is done once.
local as_said, as_shown = {}, {}
local function queue_of(name)
  local shown = text(name)
  local queue = as_shown[shown]
  if not queue then
    queue = { shown, 0, 0, 0 }
    as_shown[shown] = queue
    queues[#queues + 1] = queue
  end
  as_said[name] = queue
  return queue
end

for _, key in ipairs(KEYS) do
  local found = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for i = 1, #found, 2 do
    -- A worker of an older version that comes back from the gone is in both: it lives.
    local s, heard = not seen[found[i]] and said(found[i]), number(found[i + 1])
    seen[found[i]] = true
    if s then
      workers[#workers + 1] = { text(found[i]), heard, text(s.host), whole(s.pid), number(s.started_at),
        whole(s.all_slots), whole(s.all_busy), whole(s.rss), number(s.lag), number(s.blocked), text(s.version),
        text(s.python), number(s.lease) }
    end
    if s and now - heard <= tonumber(ARGV[2]) then
      local slots, busy = numbers(s.slots), numbers(s.busy)
      for n, name in ipairs(numbers(s.queues)) do
        local queue = as_said[name] or queue_of(name)
        queue[2], queue[3], queue[4] = queue[2] + 1, queue[3] + whole(slots[n]), queue[4] + whole(busy[n])
      end
    end
  end
end
return cmsgpack.pack({ now, workers, queues })
