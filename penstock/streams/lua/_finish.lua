-- Who waits for this task. Asked before anything is written: it also finds a key of another type.
local function waiting_for(key)
  return call('HGET', RECORD .. key, 'l')
end

-- Every terminal transition ends here: state, time, the record's TTL, extra fields; then whoever waits
-- is told. PUBLISH is last and in pcall, because an ACL may forbid the channel.
local function finish(key, waiting, state, now, ttl, ...)
  local record = RECORD .. key
  call('HSET', record, 's', state, 'f', now, ...)
  call('PEXPIRE', record, ttl)
  if waiting then
    local namespace, queue = base:match('^{([^:]+):(.+)}$')
    for listener in waiting:gmatch('%S+') do
      redis.pcall('PUBLISH', '{' .. namespace .. '}:l:' .. listener, queue .. ':' .. key)
    end
  end
end
