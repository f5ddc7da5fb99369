-- Send dead letters again, as new: no attempts spent, no crashes counted.
-- KEYS  1 base
-- ARGV  1 most to send when no key is given (oldest first), 2 token of this call, then keys
-- reply {sent, keys that are no dead letters or cannot be sent}; an error if one occurred and none was sent
-- include: prelude
local token, keys, sent, refused, problem = ARGV[2], {}, 0, {}, nil
for i = 3, #ARGV do keys[#keys + 1] = ARGV[i] end
if #ARGV == 2 then keys = call('ZRANGE', DEAD, 0, tonumber(ARGV[1]) - 1) end

local function redrive(key)
  local record = RECORD .. key
  local r = call('HMGET', record, 's', 'p', 'e', 'j')
  -- Sent by an earlier send of this call, whose reply was lost; it may even have died again since.
  if r[4] == token then
    sent = sent + 1
    return ''
  end
  local message = call('ZSCORE', DEAD, key) and r[1] == 'f' and call('GET', PARKED .. key)
  if message then
    local entry = call('XADD', STREAM .. (r[2] or 'default'), '*', 'k', key, 'm', message)
    call('HSETNX', record, 't', (r[3] or entry):match('^%d+'))
    call('HSET', record, 's', 'q', 'e', entry, 'j', token, 'i', entry:match('^%d+'))
    call('HDEL', record, 'a', 'd', 'f', 'b', 'w', 'c', 'x', 'y', 'g', 'v', 'z')
    call('PERSIST', record)
    call('DEL', PARKED .. key, RESULT .. key)
    sent = sent + 1
  elseif #ARGV > 2 then
    refused[#refused + 1] = key
  end
  call('ZREM', DEAD, key)
  return ''
end

for _, key in ipairs(keys) do
  local reply = guarded(redrive, key)
  if reply ~= '' then
    refused[#refused + 1], problem = key, problem or reply:sub(2)
  end
end
if problem and sent == 0 then return redis.error_reply(problem) end
return { sent, refused }
