-- Add what a worker has measured since it last said so. What was added already is not added again.
-- KEYS  1 base
-- ARGV  1 consumer, 2 number of this call, greater than that of its last one; 3 ms for which that is remembered;
--       then per measure: field, what to add (msgpack: numbers)
-- reply 1 added, 0 added by an earlier send of this call
-- include: prelude
local known = base .. ':f:' .. ARGV[1]
if tonumber(call('GET', known) or -1) >= tonumber(ARGV[2]) then return 0 end
local function numbers(packed)
  local ok, found = pcall(cmsgpack.unpack, packed or '\144')
  return ok and type(found) == 'table' and found or {}
end

-- First all that can fail (somebody else's key), then SET (out of memory): then nothing was added, and it may be sent
-- again.
local added = {}
for i = 4, #ARGV, 2 do
  local sums = numbers(call('HGET', MEASURES, ARGV[i]))
  for n, more in ipairs(numbers(ARGV[i + 1])) do sums[n] = (tonumber(sums[n]) or 0) + more end
  added[i] = cmsgpack.pack(sums)
end
call('SET', known, ARGV[2], 'PX', ARGV[3])
for i = 4, #ARGV, 2 do call('HSET', MEASURES, ARGV[i], added[i]) end
return 1
