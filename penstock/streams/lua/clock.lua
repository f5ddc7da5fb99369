-- The server's time. A script, as on Cluster it must be that of the node which has the queue. Reads only.
-- KEYS  1 base
-- ARGV  none
-- reply ms
local t = redis.call('TIME')
return t[1] * 1000 + math.floor(t[2] / 1000)
