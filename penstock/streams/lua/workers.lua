-- All workers of a namespace, and what each says of itself. Reads only.
-- KEYS  1 workers (sorted set)
-- ARGV  1 what the workers' own keys begin with (same slot)
-- reply {now in ms, then per worker: consumer, last heartbeat in ms, what it says (msgpack) or ''}
local t = redis.call('TIME')
local out = { t[1] * 1000 + math.floor(t[2] / 1000) }
local found = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #found, 2 do
  out[#out + 1] = found[i]
  out[#out + 1] = found[i + 1]
  out[#out + 1] = redis.call('GET', ARGV[1] .. found[i]) or ''
end
return out
