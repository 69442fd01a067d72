-- Gives back an attempt's reservation at a worker and its place among the waiters; the attempt stays live.
-- KEYS reservations, waiters, lines, wake, live, live_ends, live_shares, live_sums,
--   service, service_waiting, service_resting, descriptor
-- ARGV nonce, worker
-- NUMBERS grace_ms
-- Replies {'released'}

local now = now_ms()
local d = read_fields(keys.descriptor)
local is_reserved = d and d['attempt:nonce'] == args.nonce and d['attempt:worker'] == args.worker
leave_line(keys, args.nonce)
if is_reserved and args.worker ~= '' then
  rest_live(keys, keys.descriptor, d, now)
end
give_back(keys, args.worker, args.nonce)
if is_reserved and args.worker ~= '' then
  local service = join_service(keys, d.tenant, now, args.grace_ms)
  start_waiting(service, d['attempt:expiry'])
  save_service(keys, service, now)
  redis.call('HSET', keys.descriptor, 'attempt:worker', '')
end
return {'released'}
