-- A task's record and its result; or, while it is not finished, leave word who waits for it.
-- KEYS  1 base
-- ARGV  1 key, 2 listener to tell ('': nobody waits)
-- reply {} unknown, or {record as field, value, ..; result or failure if it has a key of its own}
-- include: prelude
local record = RECORD .. ARGV[1]
local fields = call('HGETALL', record)
if #fields == 0 then return {} end
local state = call('HGET', record, 's')
if ARGV[2] ~= '' and not FINISHED[state] then
  local waiting = call('HGET', record, 'l') or ''
  -- At most 64 B, so that the hash stays small; who finds no room looks again once a second.
  if not string.find(waiting, ARGV[2], 1, true) and #waiting + #ARGV[2] < 64 then
    -- pcall: with maxmemory reached one can still read.
    redis.pcall('HSET', record, 'l', waiting == '' and ARGV[2] or waiting .. ' ' .. ARGV[2])
  end
end
return { fields, call('GET', RESULT .. ARGV[1]) }
