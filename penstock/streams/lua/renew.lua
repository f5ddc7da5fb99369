-- Renew the leases of entries in flight. Only what is still ours: a blind XCLAIM steals an entry back.
-- JUSTID, else each renewal would count as a delivery.
-- KEYS  1 base
-- ARGV  1 consumer, then triples: priority, entry, key
-- reply {indices of triples that were lost, indices of triples to cancel}, from 0
-- include: prelude
local me, ours, lost, cancelled = ARGV[1], {}, {}, {}
for i = 2, #ARGV, 3 do
  local stream, entry = STREAM .. ARGV[i], ARGV[i + 1]
  if owns(me, stream, entry) then
    local claim = ours[stream]
    if not claim then
      claim = { 'XCLAIM', stream, 'w', me, 0 }
      ours[stream] = claim
    end
    claim[#claim + 1] = entry
    if type(redis.pcall('HGET', RECORD .. ARGV[i + 2], 'c')) == 'string' then cancelled[#cancelled + 1] = (i - 2) / 3 end
  else
    lost[#lost + 1] = (i - 2) / 3
  end
end
for _, claim in pairs(ours) do
  claim[#claim + 1] = 'JUSTID'
  call(unpack(claim))
end
return { lost, cancelled }
