-- Reads one worker as it is now, and what it has of a session.
-- KEYS workers, reservations, live_sums, lease, residency, descriptor
-- ARGV worker, session_id
-- NUMBERS grace_ms, residency_delay_ms (see `cached_at`)
-- Replies {now, name, ms left, lease document ('' when it is gone), tokens, attempts, tokens of live sessions, target,
--   cached tokens, tokens behind those in host memory}

local now, worker = now_ms(), args.worker
local left = (tonumber(redis.call('ZSCORE', keys.workers, worker)) or 0) - now
local document = left > 0 and redis.call('GET', keys.lease) or ''
local tokens, attempts = reserved_at(read_ledger(keys.reservations, now, args.grace_ms), worker)
local d, cached, warm = read_fields(keys.descriptor), 0, 0
if d then
  cached, warm = cached_at(keys.workers, worker, keys.residency, args.session_id, d, now, args.residency_delay_ms)
end
return {now, worker, left, document, tokens, attempts, (live_at(keys, worker)), (read_target(keys)), cached, warm}
