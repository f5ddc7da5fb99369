-- End a delivery without ending its task: to be retried, snoozed, or handed back. Needs ownership, and
-- the writes that can fail come before XACK: out of memory, the entry just stays pending.
-- KEYS  1 base
-- ARGV  1 consumer, 2 TTL in ms of records that end here, 3 ms after which an unknown task is given up;
--       then per task 8: priority, entry, key, task name, message, delay in ms, kind, error
--       kind: retried (spends an attempt), snoozed, released, unstarted (released before its code began), unknown
-- reply per task: 1 moved, 2 moved by an earlier send, 0 not ours, 3 unknown for too long (nothing
--       changed), 4 ended as cancelled, or '!error'
-- include: prelude
-- include: finish
local me, TTL, give_up = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now, soon = clock()
local earlier

local function wait_unknown(record, delay)
  local since = tonumber(call('HGET', record, 'g') or now)
  if now - since >= give_up then return nil end
  call('HSET', record, 'g', since)
  -- Growing, so that it does not go round in circles; bounded, so that a deploy is noticed.
  return math.min(60000, math.max(delay, (now - since) / 2))
end

local function park(i)
  local priority, entry, key, name, message = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local delay, kind, stream, record = tonumber(ARGV[i + 5]), ARGV[i + 6], STREAM .. priority, RECORD .. key
  local r = call('HMGET', record, 's', 'e', 'w', 'c', 'd', 'z', 'b', 'u')
  if not owns(me, stream, entry) then
    if r[1] == 'c' and r[2] == entry and r[3] == me then return 4 end
    return r[6] == entry and r[3] == me and 2 or 0
  end
  if r[4] then
    finish(record, waiting_for(record), 'c', now, TTL)
    count('cancelled', name)
    drop(stream, entry)
    return 4
  end
  if kind == 'unknown' then
    delay = wait_unknown(record, delay)
    if not delay then return 3 end
  end
  if r[8] and not r[6] then call('HSETNX', record, 'i', r[8]) end -- since then it was ready: 'u' will be another time
  if delay > 0 then
    local due = soon + math.ceil(delay)
    local head = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
    call('ZADD', DUE, due, key)
    call('SET', PARKED .. key, message)
    call('HSET', record, 's', 's', 'u', due)
    if not head[2] or due < tonumber(head[2]) then earlier = due end
  else
    local again = call('XADD', stream, '*', 'k', key, 'm', message)
    call('HSET', record, 's', 'q', 'e', again)
  end
  -- 'z', 'w': by these a resend is known. 'd': ended in order, so this delivery was no crash.
  call('HSET', record, 'n', name, 'z', entry, 'w', me, 'd', math.max(0, (tonumber(r[5]) or 1) - 1))
  call('HSETNX', record, 't', entry:match('^%d+'))
  if kind == 'retried' then call('HINCRBY', record, 'a', 1) end
  if ARGV[i + 7] ~= '' then call('HSET', record, 'y', ARGV[i + 7]) end
  -- Whose code has not begun may still expire. Whose name somebody knew, its time as unknown is over.
  if kind == 'unknown' or kind == 'unstarted' then
    call('HDEL', record, 'b')
  elseif r[7] then -- it was counted from this entry's time, and there will be another entry
    call('HSET', record, 'b', to_time(entry, r[7]))
  end
  if kind ~= 'unknown' then call('HDEL', record, 'g') end
  drop(stream, entry)
  count(kind == 'unstarted' and 'released' or kind, name)
  return 1
end

local out = {}
for i = 4, #ARGV, 8 do out[#out + 1] = guarded(park, i) end
if earlier then redis.pcall('PUBLISH', base .. ':c', 'due ' .. (earlier - now)) end
return out
