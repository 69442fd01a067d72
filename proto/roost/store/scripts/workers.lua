-- Reads workers' leases and what the ledger holds against them.
-- KEYS 1 workers, 2 reservations, then the lease of each worker that the caller knows
-- ARGV 1 grace ms, 2 ms after which a worker that is gone is forgotten, then the names of the known workers
-- Replies {now, then four for each live worker: name, ms left, lease document ('' when it is not in KEYS or gone, '?' when the caller
--   does not know the worker), tokens, attempts}

local now = now_ms()
local grace = tonumber(ARGV[1])
local known = {}
for i = 3, #ARGV do
  known[ARGV[i]] = KEYS[i]
end
local forgotten = text(now - tonumber(ARGV[2]))
if redis.call('ZCOUNT', KEYS[1], '-inf', forgotten) > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', forgotten)
end
local ledger = read_ledger(KEYS[2], now, grace)
local reply = {now}
local live = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. text(now), '+inf', 'WITHSCORES')
for i = 1, #live, 2 do
  local worker = live[i]
  local document = '?'
  if known[worker] then
    document = redis.call('GET', known[worker]) or ''
  end
  local tokens, attempts = held_at(ledger, worker)
  table.insert(reply, {worker, tonumber(live[i + 1]) - now, document, tokens, attempts})
end
return reply
