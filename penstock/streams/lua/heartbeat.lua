-- A worker says that it lives, and moves those that have not said so for long to those that are gone: who looks from
-- outside must see that a worker has died, not only that there is one less.
-- KEYS  1 workers (sorted set), 2 this worker's own key, 3 queues (set), 4 gone (sorted set)
-- ARGV  1 consumer, 2 what it says (msgpack), 3 ms after which one counts as gone, 4 ms after which it is forgotten,
--       then the queues it serves
-- reply {consumers that are gone since the last heartbeat of anybody}
-- A worker that cannot say that it lives is taken for dead, and killed by its probe: out of memory, too, where it is the
-- one that gives memory back. maxmemory refuses a script's first write only, and XACK is never refused.
redis.pcall('XACK', KEYS[1] .. ':', 'w', '0-0')
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if redis.call('ZADD', KEYS[1], now, ARGV[1]) == 1 then -- it has just started, or was not heard of for long
  redis.call('ZREM', KEYS[4], ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now - ARGV[4])
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[4])
if #ARGV > 4 then redis.call('SADD', KEYS[3], unpack(ARGV, 5)) end
-- LIMIT: unpack fails on more than about 8000, and with it every heartbeat of every worker.
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3], 'WITHSCORES', 'LIMIT', 0, 1000)
local names, gone = {}, {}
for i = 1, #found, 2 do
  names[#names + 1] = found[i]
  if tonumber(found[i + 1]) > now - ARGV[4] then
    gone[#gone + 1] = found[i + 1]
    gone[#gone + 1] = found[i]
  end
end
if #names > 0 then redis.call('ZREM', KEYS[1], unpack(names)) end
if #gone > 0 then redis.call('ZADD', KEYS[4], unpack(gone)) end
return names
