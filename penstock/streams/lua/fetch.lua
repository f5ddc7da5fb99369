-- Read and start as many entries as there are free slots. Each priority first gets its quota, then the
-- rest of the budget goes in the given order, so low is never starved and no slot stays empty.
-- KEYS  1 base
-- ARGV  1 consumer, 2 budget, 3 TTL in ms of records that end here, then pairs in order: priority, quota
-- A stream that cannot be read (its key holds another type) does not keep the others, whose entries are
-- delivered by then: the error comes when there is nothing else to answer.
-- reply {now, entries read (-1: the queue is paused),
--        [priority, entry, key, message, retries, deliveries, since] flat, problem or ''}
-- include: prelude
local TTL = ARGV[3]
-- include: finish
-- include: admit
if paused then return { clock(), -1, {}, '' } end
local me, left, now = ARGV[1], tonumber(ARGV[2]), clock()
local read, out, empty, failure = 0, {}, {}, nil
local FEW, BYTES, bytes = 8, 4194304, 0

local function read_group(stream, count)
  return call('XREADGROUP', 'GROUP', 'w', me, 'COUNT', count, 'STREAMS', stream, '>')
end

local function size(fields)
  if #fields == 4 then return #fields[2] + #fields[4] end
  local all = 0
  for _, field in ipairs(fields) do all = all + #field end
  return all
end

local function read_some(i, count)
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
  for _, e in ipairs(entries) do
    deliver(out, ARGV[i], e[1], e[2], now, me)
    bytes = bytes + size(e[2])
  end
end

-- At first a few, then as many as should fit into BYTES by the size of those: a reply with a hundred messages
-- of 1 MiB each would stall all who use the server. What is left comes with the next fetch.
local function take(i, count)
  count = math.min(count, left)
  while count > 0 and not empty[i] and bytes < BYTES do
    local some = bytes == 0 and FEW or math.ceil((BYTES - bytes) * read / bytes)
    read_some(i, math.min(count, some))
    count = count - some
  end
end

for i = 4, #ARGV, 2 do take(i, tonumber(ARGV[i + 1])) end
for i = 4, #ARGV, 2 do take(i, left) end
if failure and read == 0 then error(failure) end
return { now, read, out, problem }
