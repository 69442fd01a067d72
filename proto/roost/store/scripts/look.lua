-- Reads one worker as it is now, and what it has of a session.
-- KEYS 1 workers, 2 reservations, 3 the worker's lease, 4 its residency, 5 descriptor
-- ARGV 1 grace ms, 2 worker, 3 session name, 4 `delay` of `cached_at`
-- Replies {now, name, ms left, lease document ('' when it is gone), tokens, attempts, cached tokens}

local now, grace, worker = now_ms(), tonumber(ARGV[1]), ARGV[2]
local left = (tonumber(redis.call('ZSCORE', KEYS[1], worker)) or 0) - now
local document = left > 0 and redis.call('GET', KEYS[3]) or ''
local tokens, attempts = held_at(read_ledger(KEYS[2], now, grace), worker)
local d = read_fields(KEYS[5])
local cached = d and cached_at(KEYS[1], worker, KEYS[4], ARGV[3], d, now, tonumber(ARGV[4])) or 0
return {now, worker, left, document, tokens, attempts, cached}
