-- All workers of a namespace, and what each says of itself. Reads only.
-- KEYS  1 workers (sorted set), 2 those that are gone, if they are asked for; else no key at all
-- ARGV  1 what the workers' own keys begin with (same slot), 2 what the names begin with: only these
-- reply {now in ms, then per worker: consumer, last heartbeat in ms, what it says (msgpack) or ''}
local t = redis.call('TIME')
local out = { t[1] * 1000 + math.floor(t[2] / 1000) }
local found, seen = {}, {}
for _, key in ipairs(KEYS) do
  local all = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    if all[i]:sub(1, #ARGV[2]) == ARGV[2] and not seen[all[i]] then
      seen[all[i]] = true
      found[#found + 1] = all[i]
      found[#found + 1] = all[i + 1]
    end
  end
end
-- In pages: each worker asks for all, so a command for each would be the square of their number; and unpack has a
-- limit of about 8000.
local PAGE = 1000
for from = 1, #found, 2 * PAGE do
  local names = {}
  for i = from, math.min(#found, from + 2 * PAGE - 1), 2 do names[#names + 1] = ARGV[1] .. found[i] end
  local said = redis.call('MGET', unpack(names))
  for i = 1, #names do
    local at = from + 2 * (i - 1)
    out[#out + 1] = found[at]
    out[#out + 1] = found[at + 1]
    out[#out + 1] = said[i] or ''
  end
end
return out
