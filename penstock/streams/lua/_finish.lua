-- Who waits for this task. Asked before anything is written: it also finds a key of another type.
local function waiting_for(record)
  return call('HGET', record, 'l')
end

-- Every terminal transition ends here: state, time, the record's TTL, extra fields; then whoever waits
-- is told, with the record: only what is stored beside it (a failure, a larger result) has to be read then. All that is
-- in pcall, because an ACL may forbid it.
local function finish(record, waiting, state, time, ttl, ...)
  call('HSET', record, 's', state, 'f', time, ...)
  call('PEXPIRE', record, ttl)
  if waiting then
    local namespace, queue = base:match('^{([^:]+):(.+)}$')
    local told = { queue, ':', record:sub(#RECORD + 1), '\n' }
    for _, text in ipairs(redis.pcall('HGETALL', record)) do
      told[#told + 1] = struct.pack('>I4', #text)
      told[#told + 1] = text
    end
    told = table.concat(told)
    for listener in waiting:gmatch('%S+') do redis.pcall('PUBLISH', '{' .. namespace .. '}:l:' .. listener, told) end
  end
end
