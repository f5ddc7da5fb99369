-- Read and start as many entries as there are free slots. Each priority first gets its quota, then the
-- rest of the budget goes in the given order, so low is never starved and no slot stays empty.
-- KEYS  1 base
-- ARGV  1 consumer, 2 budget, 3 TTL in ms of records that end here, then pairs in order: priority, quota
-- A stream that cannot be read (its key holds another type) does not keep the others, whose entries are
-- delivered by then: the error comes when there is nothing else to answer.
-- reply {now, entries read (-1: the queue is paused), [priority, entry, key, message, retries, deliveries] flat, problem or ''}
-- include: prelude
local TTL = ARGV[3]
-- include: finish
-- include: admit
if paused then return { clock(), -1, {}, '' } end
local me, left, now = ARGV[1], tonumber(ARGV[2]), clock()
local read, out, empty, failure = 0, {}, {}, nil

local function read_group(stream, count)
  return call('XREADGROUP', 'GROUP', 'w', me, 'COUNT', count, 'STREAMS', stream, '>')
end

local function take(i, count)
  if count > left then count = left end
  if count < 1 or empty[i] then return end
  local stream = STREAM .. ARGV[i]
  local ok, reply = pcall(read_group, stream, count)
  if not ok then
    local why = type(reply) == 'table' and reply.err or reply
    if not string.find(why, 'NOGROUP', 1, true) then
      failure, empty[i] = reply, true
      return
    end
    -- Whoever comes first makes the group, at 0: what was sent before must be delivered, too.
    call('XGROUP', 'CREATE', stream, 'w', '0', 'MKSTREAM')
    reply = read_group(stream, count)
  end
  local entries = reply and reply[1][2] or {}
  empty[i] = #entries < count
  left, read = left - #entries, read + #entries
  for _, e in ipairs(entries) do deliver(out, ARGV[i], e[1], e[2], now, me) end
end

for i = 4, #ARGV, 2 do take(i, tonumber(ARGV[i + 1])) end
for i = 4, #ARGV, 2 do take(i, left) end
if failure and read == 0 then error(failure) end
return { now, read, out, problem }
