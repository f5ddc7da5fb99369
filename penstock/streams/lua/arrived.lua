-- Start what a blocking read has brought that was sent just before this script, in the same request: the server goes on
-- with it as soon as it has woken the reader, so no round trip lies between (seen on Redis 6.2, 7.0 and 8.2 and on
-- Valkey 9.1). What it does not find, as others' entries lie before it, is left to `admit.lua`, and so is what may
-- expire: a start ends that, and this one comes before anybody knows whether the worker is there to look at it.
-- KEYS  1.. bases of the queues, all of one slot or of a server that is no Cluster; last: a name that is not used
-- ARGV  1 consumer, 2 TTL in ms of records that end here, 3 the server's time in ms from which on entries may be new,
--       4 ms since which one that is new was delivered at most (a suspect that a reclaim holds back is older)
-- reply {now, entries seen (without those put back, as the queue is paused),
--        [priority, entry, key, message, retries, deliveries, since] flat, problem or '', base}; {} nothing has come
local streams = {}
for i = 1, #KEYS - 1 do
  for _, priority in ipairs({ 'high', 'default', 'low' }) do streams[#streams + 1] = KEYS[i] .. ':s:' .. priority end
end
-- XREAD leaves out the id that it is given: so the last one of the millisecond before.
local before_all = ARGV[3] == '0' and '0' or ('%.0f-18446744073709551615'):format(ARGV[3] - 1)
for i = 1, #streams do streams[#streams + 1] = before_all end
-- One command for all: as a rule this runs after a read that has brought nothing.
local news = redis.call('XREAD', 'COUNT', 1, 'STREAMS', unpack(streams))
if not news then return {} end
-- As a rule one stream has news. From here on all is about its queue.
local stream = news[1][1]
local found, priority = stream:match('^(.-}):s:(.+)$')
KEYS[1] = found
-- include: prelude
local TTL = ARGV[2]
-- include: finish
-- include: admit
local me, now, out, seen = ARGV[1], clock(), {}, 0
pass_maxmemory(stream)
for _, mine in ipairs(ask('XPENDING', stream, 'w', ARGV[3], '+', 4, me)) do
  local e = mine[3] < tonumber(ARGV[4]) and call('XRANGE', stream, mine[1], mine[1])[1]
  local key, before = e and parse(e[2]), #out
  if e and not (key and redis.pcall('HGET', RECORD .. key, 'x')) then
    deliver(out, priority, e[1], e[2], now, me)
    if not paused or #out > before then seen = seen + 1 end
  end
end
return { now, seen, out, problem, base }
