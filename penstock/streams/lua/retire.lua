-- Delete consumers that are gone and own nothing. DELCONSUMER drops what a consumer owns without a trace,
-- so the check and the deletion are one step. Who lives is asked before: heartbeats are in another slot.
-- Idle says too little: a worker whose slots are all taken reads nothing, for as long as that lasts.
-- KEYS  1 base
-- ARGV  1 least idle time in ms, 2 'these' or 'others', then the consumers to look at, or those that live
-- reply the number deleted
-- include: prelude
local idle, these, named, deleted = tonumber(ARGV[1]), ARGV[2] == 'these', {}, 0
for i = 3, #ARGV do named[ARGV[i]] = true end
for _, priority in ipairs({ 'high', 'default', 'low' }) do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', STREAM .. priority, 'w')
  for _, c in ipairs(consumers.err and {} or consumers) do
    local d = {}
    for i = 1, #c, 2 do d[c[i]] = c[i + 1] end
    if d.pending == 0 and d.idle >= idle and these == (named[d.name] or false) then
      call('XGROUP', 'DELCONSUMER', STREAM .. priority, 'w', d.name)
      deleted = deleted + 1
    end
  end
end
return deleted
