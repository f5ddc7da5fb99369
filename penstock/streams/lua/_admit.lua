-- From an entry to a start: `admit` lets it start or ends it, `deliver` hands it to the worker.
local function end_unstarted(record, state, outcome, now)
  finish(record, waiting_for(record), state, now, TTL)
  count(outcome, call('HGET', record, 'n') or '?')
end

-- Nothing starts while its queue is paused: then nothing is read or taken over either.
local paused = call('GET', PAUSED)

-- Only a blocking read brings an entry of a paused queue: it goes back, to the end of its stream.
local function put_back(priority, entry, key, message)
  local stream, record = STREAM .. priority, RECORD .. key
  local again = call('XADD', stream, '*', 'k', key, 'm', message)
  call('HSETNX', record, 't', entry:match('^%d+'))
  call('HSET', record, 's', 'q', 'e', again, 'p', priority) -- 'p': there may have been no record
  drop(stream, entry)
end

-- Since when (ms) a task is on its way to its end: sent, or sent again as a dead letter ('i'); due, if it was
-- scheduled ('u', while it has not been parked once more: 'z'). 0: since the time of this entry. Also where somebody
-- else has written what is no time: workers add with it.
local function on_its_way(i, z, u, t)
  local since = tonumber(i or (not z and u) or t) or 0
  return since > 0 and since < 1e14 and math.floor(since) or 0
end

-- The one gate to a start, whichever way an entry came. What was cancelled or expired ends here, what is
-- paused goes back, and an entry that its record no longer points at (a copy that a failover brought back)
-- is dropped. Returns retries and deliveries so far, this one included, and since when it is on its way; or nothing
-- when it does not start.
-- 'd' counts deliveries that were started and not yet ended in order: what is left over are crashes. It is left
-- out when it would be 1, as in nearly all records.
local function admit(priority, entry, key, message, now, me)
  local stream, record = STREAM .. priority, RECORD .. key
  -- Three fields, and the entry is this one: as enqueue has made it. (The others are name and state.)
  if call('HLEN', record) == 3 and call('HGET', record, 'e') == entry and not paused then
    call('HSET', record, 's', 'r', 'w', me, 'b', from_entry(entry, now))
    return 0, 1, 0
  end
  local r = call('HMGET', record, 's', 'e', 'c', 'x', 'b', 'a', 'd', 'w', 'i', 'z', 'u', 't')
  local state = r[1]
  if state and (FINISHED[state] or state == 's' or r[2] ~= entry) then
    return drop(stream, entry)
  end
  local retries, deliveries = tonumber(r[6]) or 0, tonumber(r[7]) or (state == 'r' and 1 or 0)
  local since = on_its_way(r[9], r[10], r[11], r[12])
  -- Started here already: a reclaim has overtaken the blocking read that brought it. It is one start.
  if state == 'r' and r[8] == me then return retries, deliveries, since end
  if r[3] then
    end_unstarted(record, 'c', 'cancelled', now)
    return drop(stream, entry)
  end
  if r[4] and not r[5] and tonumber(r[4]) <= now then
    end_unstarted(record, 'e', 'expired', now)
    return drop(stream, entry)
  end
  if paused then return put_back(priority, entry, key, message) end
  call('HSET', record, 's', 'r', 'w', me, 'b', from_entry(entry, now))
  if r[7] or deliveries > 0 then call('HSET', record, 'd', deliveries + 1) end
  -- A resend of what has parked it is known by 'z' and 'w', and 'w' is another one now.
  if r[10] and r[8] ~= me then call('HSET', record, 'z', '-') end
  if not state then call('HSET', record, 'e', entry, 'p', priority) end
  return retries, deliveries + 1, since
end

local function hand_out(out, priority, entry, key, message, retries, deliveries, since)
  local n = #out
  out[n + 1], out[n + 2], out[n + 3], out[n + 4] = priority, entry, key, message
  out[n + 5], out[n + 6], out[n + 7] = retries, deliveries, since
end

-- What the record says of this entry: deliveries so far, retries if this consumer has started it, and since when it is
-- on its way.
local function started(key, entry, me)
  local r = key and redis.pcall('HMGET', RECORD .. key, 'd', 'a', 's', 'e', 'w', 'i', 'z', 'u', 't') or {}
  local mine = r[3] == 'r' and r[4] == entry and r[5] == me
  local deliveries = tonumber(r[1]) or (r[3] == 'r' and 1 or 0)
  return deliveries, mine and (tonumber(r[2]) or 0), on_its_way(r[6], r[7], r[8], r[9])
end

-- Appends priority, entry, key, message, retries, deliveries, since of an entry to `out` if it may start. An
-- entry that is no message of ours goes out with the key '' and its raw fields, for the worker to bury.
-- One that cannot be admitted (its record's key holds another type) stays pending and is a `problem`.
local problem = ''
local function deliver(out, priority, entry, fields, now, me)
  local key, message = parse(fields)
  local retries, deliveries, since = 0, 1, 0
  if key then
    local ok
    ok, retries, deliveries, since = pcall(admit, priority, entry, key, message, now, me)
    if not ok then problem = 'record of ' .. key .. ': ' .. tostring(type(retries) == 'table' and retries.err or retries) end
    if not ok or not retries then return end
  else
    key, message = '', cmsgpack.pack(fields)
  end
  hand_out(out, priority, entry, key, message, retries, deliveries, since)
end
