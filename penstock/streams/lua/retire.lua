-- Delete consumers that are gone and own nothing. DELCONSUMER drops what a consumer owns without a trace,
-- so the check and the deletion are one step.
-- KEYS  1 base
-- ARGV  1 least idle time in ms, then consumers to look at (none: all)
-- reply the number deleted
-- include: prelude
local idle, wanted, deleted = tonumber(ARGV[1]), {}, 0
for i = 2, #ARGV do wanted[ARGV[i]] = true end
for _, priority in ipairs({ 'high', 'default', 'low' }) do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', STREAM .. priority, 'w')
  for _, c in ipairs(consumers.err and {} or consumers) do
    local d = {}
    for i = 1, #c, 2 do d[c[i]] = c[i + 1] end
    if d.pending == 0 and d.idle >= idle and (#ARGV == 1 or wanted[d.name]) then
      call('XGROUP', 'DELCONSUMER', STREAM .. priority, 'w', d.name)
      deleted = deleted + 1
    end
  end
end
return deleted
