-- Reserves KV tokens at a worker for a live attempt, or gives it a place among the waiters.
-- KEYS 1 reservations, 2 waiters, 3 descriptor, 4 workers, 5 the worker's lease
-- ARGV 1 unused, 2 grace ms, 3 wake channel, 4 epoch, 5 nonce, 6 worker, 7 tokens, 8 class,
--   9 deadline in ms from now (0 none), 10 lease ms, 11 aging ms per class
-- Replies {'reserved'} | {'waits'}

local grace, epoch, nonce, worker = tonumber(ARGV[2]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local tokens, class, aging = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[11])
local d = read_fields(KEYS[3])
if not d then
  return refuse('not_found')
end
if d['attempt:nonce'] ~= nonce or d.epoch ~= epoch then
  return refuse('fenced', 0, d)
end
local now = now_ms()
local ledger = read_ledger(KEYS[1], now, grace)
local waiters = read_waiters(KEYS[2], now, grace, aging)
local member = worker .. '|' .. nonce
local enqueued = waiters.enqueued[nonce] or now
local mine = tokens_of(ledger, member)
local granted = mine and mine >= tokens
if not granted and is_alive(KEYS[4], worker, now, grace) and
  (mine or not must_wait(waiters, class * aging + enqueued, nonce, nonce)) then
  granted = has_room(ledger, KEYS[5], worker, tokens, member)
end

pass_memory_limit()
settle(ledger)
purge(KEYS[2], waiters.over)
local expiry = text(now + tonumber(ARGV[10]))
if not granted then
  local deadline = tonumber(ARGV[9])
  redis.call('HSET', KEYS[2], nonce, text(class) .. ':' .. text(enqueued) .. ':' ..
    text(deadline > 0 and now + deadline or 0) .. ':' .. expiry)
  return {'waits'}
end
local moved = d['attempt:worker'] ~= '' and d['attempt:worker'] ~= worker and
  unclaim(KEYS[1], d['attempt:worker'], nonce) or 0
local left = redis.call('HDEL', KEYS[2], nonce)
claim(KEYS[1], worker, nonce, math.max(tokens, mine or 0), now + tonumber(ARGV[10]))
redis.call('HSET', KEYS[3], 'attempt:worker', worker, 'attempt:tokens', text(math.max(tokens, mine or 0)))
if moved + left > 0 then -- who stood behind this one may be next
  wake()
end
return {'reserved'}
