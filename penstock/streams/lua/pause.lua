-- Pause a queue: nothing of it starts until it is resumed. What runs goes on, and tasks can be sent.
-- KEYS  1 base
-- ARGV  1 'pause' or 'resume'
-- reply 1 done, 0 it was so already
-- include: prelude
if ARGV[1] == 'pause' then return call('SET', PAUSED, clock(), 'NX') and 1 or 0 end
-- Told in any case: the message of a first try, whose reply was lost, may be lost, too.
redis.pcall('PUBLISH', base .. ':c', 'resume')
return call('DEL', PAUSED)
