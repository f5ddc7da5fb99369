-- A worker says that it lives, and forgets those that have not said so for long.
-- KEYS  1 workers (sorted set), 2 this worker's own key, 3 queues (set)
-- ARGV  1 consumer, 2 what it says (msgpack), 3 TTL in ms, then the queues it serves
-- reply {consumers that were forgotten}
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
if #ARGV > 3 then redis.call('SADD', KEYS[3], unpack(ARGV, 4)) end
-- LIMIT: unpack fails on more than about 8000, and with it every heartbeat of every worker.
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3], 'LIMIT', 0, 1000)
if #gone > 0 then redis.call('ZREM', KEYS[1], unpack(gone)) end
return gone
