-- Gives back an attempt's reservation at a worker and its place among the waiters; the attempt stays live.
-- KEYS reservations, waiters, lines, wake, descriptor
-- ARGV nonce, worker
-- Replies {'released'}

local d = read_fields(keys.descriptor)
leave_line(keys, args.nonce)
give_back(keys, args.worker, args.nonce)
if d and d['attempt:nonce'] == args.nonce and d['attempt:worker'] == args.worker then
  redis.call('HSET', keys.descriptor, 'attempt:worker', '')
end
return {'released'}
