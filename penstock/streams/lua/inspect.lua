-- How much a queue holds. Reads only; each command is O(1) or O(log n).
-- ready = XLEN - pending: exact, because what has ended is acked and deleted in one step. (XINFO's own
-- `lag` turns nil with the first deleted entry, on all servers.)
-- KEYS  1 base
-- ARGV  none
-- reply {now in ms, parked, when the first parked is due in ms or '', dead, counters, since when it is paused in ms or '',
--        then per priority: its name, entries, delivered, id of the oldest undelivered entry or ''}
-- include: prelude
local first = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
local out = { clock(), call('ZCARD', DUE), first[2] or '', call('ZCARD', DEAD), call('HGETALL', COUNTERS),
  call('GET', PAUSED) or '' }
for _, priority in ipairs({ 'high', 'default', 'low' }) do
  local stream, pending, last, oldest = STREAM .. priority, 0, '0-0', {}
  local length = call('XLEN', stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream) -- an error without the stream
  for _, group in ipairs(groups.err and {} or groups) do
    local g = {}
    for i = 1, #group, 2 do g[group[i]] = group[i + 1] end
    if g.name == 'w' then pending, last = g.pending, g['last-delivered-id'] end
  end
  if length > pending then oldest = call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1) end
  out[#out + 1] = priority
  out[#out + 1] = length
  out[#out + 1] = pending
  out[#out + 1] = oldest[1] and oldest[1][1] or ''
end
return out
