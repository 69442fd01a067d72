-- Removes a worker's lease and residency.
-- KEYS workers, lease, residency
-- ARGV worker
-- Replies the number of keys removed

redis.call('ZREM', keys.workers, args.worker)
return redis.call('DEL', keys.lease, keys.residency)
