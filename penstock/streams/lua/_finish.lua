-- Who waits for this task. Asked before anything is written: it also finds a key of another type.
local function waiting_for(record)
  return call('HGET', record, 'l')
end

-- Every terminal transition ends here: state, time, the record's TTL, extra fields; then whoever waits
-- is told. PUBLISH is last and in pcall, because an ACL may forbid the channel.
local function finish(record, waiting, state, time, ttl, ...)
  call('HSET', record, 's', state, 'f', time, ...)
  call('PEXPIRE', record, ttl)
  if waiting then
    local namespace, queue = base:match('^{([^:]+):(.+)}$')
    local key = record:sub(#RECORD + 1)
    for listener in waiting:gmatch('%S+') do
      redis.pcall('PUBLISH', '{' .. namespace .. '}:l:' .. listener, queue .. ':' .. key)
    end
  end
end
