-- Renews a worker's lease and publishes what it has cached.
-- KEYS workers, lease, residency, drain
-- ARGV worker, document
-- NUMBERS ttl_ms, forget_ms, whole (1 when the residency is published as a whole, 0 for changes), changed (count);
--   sessions and tokens of what has changed, then the sessions that are gone
-- Replies {number of sessions published now, 1 when the worker is asked to drain}

local now = now_ms()
redis.call('ZADD', keys.workers, text(now + args.ttl_ms), args.worker)
redis.call('ZREMRANGEBYSCORE', keys.workers, '-inf', text(now - args.forget_ms))
redis.call('SET', keys.lease, args.document, 'PX', args.ttl_ms)
if args.whole == 1 then
  redis.call('DEL', keys.residency)
end
local first_gone = named_args + 1 + 2 * args.changed
for i = named_args + 1, first_gone - 1, 2 do
  redis.call('HSET', keys.residency, ARGV[i], ARGV[i + 1])
end
for i = first_gone, #ARGV do
  redis.call('HDEL', keys.residency, ARGV[i])
end
redis.call('PEXPIRE', keys.residency, args.ttl_ms)
return {redis.call('HLEN', keys.residency), redis.call('EXISTS', keys.drain)}
