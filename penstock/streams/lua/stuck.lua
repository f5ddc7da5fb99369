-- Delivered entries that nobody has renewed for long. Reads only; passes over all that are delivered.
-- KEYS  1 base
-- ARGV  1 idle time in ms from which an entry counts, 2 most entries to count per priority
-- reply {per priority that has such entries: its name, how many, longest idle time in ms, whose that one is}
-- include: prelude
local out = {}
for _, priority in ipairs({ 'high', 'default', 'low' }) do
  local found = ask('XPENDING', STREAM .. priority, 'w', 'IDLE', ARGV[1], '-', '+', ARGV[2])
  local longest
  for _, p in ipairs(found) do
    if not longest or p[3] > longest[3] then longest = p end
  end
  if longest then
    local n = #out
    out[n + 1], out[n + 2], out[n + 3], out[n + 4] = priority, #found, longest[3], longest[2]
  end
end
return out
