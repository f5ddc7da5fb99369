-- What a server says of itself: the fields of INFO that are asked for. All of INFO would be half of what a scrape sends.
-- KEYS  1 any key of a slot that it has
-- ARGV  fields of INFO
-- reply {seconds since the epoch, microseconds, then the value of each field, or '' if there is none}
local t, info = redis.call('TIME'), redis.call('INFO')
local out, found = { tonumber(t[1]), tonumber(t[2]) }, {}
for name, value in info:gmatch('([%w_]+):([^\r\n]*)') do found[name] = value end
for i = 1, #ARGV do out[#out + 1] = found[ARGV[i]] or '' end
return out
