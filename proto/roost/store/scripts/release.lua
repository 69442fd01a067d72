-- Gives back an attempt's reservation at a worker and its place among the waiters; the attempt stays live.
-- KEYS 1 reservations, 2 waiters, 3 descriptor, 4 lines of waiters
-- ARGV 1 unused, 2 grace ms, 3 wake channel, 4 epoch, 5 nonce, 6 worker
-- Replies {'released'}

local d = read_fields(KEYS[3])
leave_line(ARGV[5])
give_back(KEYS[1], ARGV[6], ARGV[5])
if d and d['attempt:nonce'] == ARGV[5] and d['attempt:worker'] == ARGV[6] then
  redis.call('HSET', KEYS[3], 'attempt:worker', '')
end
return {'released'}
