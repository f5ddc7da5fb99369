-- Send dead letters again, as new: no attempts spent, no crashes counted.
-- KEYS  1 base
-- ARGV  1 most to send when no key is given (oldest first), then keys
-- reply {sent, keys that are no dead letters}
-- include: prelude
local keys, sent, unknown = {}, 0, {}
for i = 2, #ARGV do keys[#keys + 1] = ARGV[i] end
if #ARGV == 1 then keys = call('ZRANGE', DEAD, 0, tonumber(ARGV[1]) - 1) end
for _, key in ipairs(keys) do
  local record = RECORD .. key
  local message = call('ZSCORE', DEAD, key) and call('GET', PARKED .. key)
  if message then
    local entry = call('XADD', STREAM .. (call('HGET', record, 'p') or 'default'), '*', 'k', key, 'm', message)
    call('HSET', record, 's', 'q', 'e', entry)
    call('HDEL', record, 'a', 'd', 'f', 'b', 'w', 'c', 'x', 'y', 'g', 'v')
    call('PERSIST', record)
    call('DEL', PARKED .. key, RESULT .. key)
    sent = sent + 1
  elseif #ARGV > 1 then
    unknown[#unknown + 1] = key
  end
  call('ZREM', DEAD, key)
end
return { sent, unknown }
