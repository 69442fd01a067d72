-- Reads workers' leases and what is reserved at them.
-- KEYS workers, reservations, live, live_ends, live_shares, live_sums; the lease of each worker that the caller knows
-- NUMBERS grace_ms, forget_ms (time after which a worker that is gone is forgotten); the names of the known workers
-- Replies {now, then for each live worker {name, ms left, lease document ('' when it is gone, '?' when the caller does
--   not know the worker), tokens, attempts, tokens of live sessions, target}}

local now = now_ms()
local lease_of = {}
for i = 1, #ARGV - named_args do
  lease_of[ARGV[named_args + i]] = KEYS[named_keys + i]
end
local forgotten = text(now - args.forget_ms)
if redis.call('ZCOUNT', keys.workers, '-inf', forgotten) > 0 then
  redis.call('ZREMRANGEBYSCORE', keys.workers, '-inf', forgotten)
end
local ledger = read_ledger(keys.reservations, now, args.grace_ms)
settle_live(keys, now, args.grace_ms)
local reply, target = {now}, (read_target(keys))
local live = redis.call('ZRANGEBYSCORE', keys.workers, '(' .. text(now), '+inf', 'WITHSCORES')
for i = 1, #live, 2 do
  local worker = live[i]
  local document = lease_of[worker] and (redis.call('GET', lease_of[worker]) or '') or '?'
  local tokens, attempts = reserved_at(ledger, worker)
  table.insert(reply, {worker, tonumber(live[i + 1]) - now, document, tokens, attempts, (live_at(keys, worker)),
      target})
end
return reply
