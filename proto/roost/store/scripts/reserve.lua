-- Reserves KV tokens at a worker for a live attempt, or gives it a place in its line.
-- KEYS 1 reservations, 2 waiters, 3 descriptor, 4 workers, 5 the worker's lease, 6 lines of waiters
-- ARGV 1 unused, 2 grace ms, 3 wake channel, 4 epoch, 5 nonce, 6 worker, 7 tokens, 8 class,
--   9 deadline in ms from now (0 none), 10 lease ms, 11 aging ms per class, 12 revision that it needs ('' any)
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
local member = worker .. '|' .. nonce
local place, over = waiter_of(nonce), {}
local enqueued = place and not is_over(place, now, grace) and place.enqueued or now
local mine = tokens_of(ledger, member)
local granted = mine and mine >= tokens
if not granted and is_alive(KEYS[4], worker, now, grace) then
  local lease = read_lease(KEYS[5])
  local rank = rank_of(class, aging, enqueued)
  if mine or not must_wait(revision_of(lease), rank, nonce, nonce, over, now, grace) then
    granted = has_room(ledger, lease, worker, tokens, member)
  end
end

pass_memory_limit()
settle(ledger)
purge_waiters(over)
local expiry = text(now + tonumber(ARGV[10]))
if not granted then
  local deadline = tonumber(ARGV[9])
  enter_line(line_of(ARGV[12]), nonce, class, aging, enqueued, deadline > 0 and now + deadline or 0, expiry)
  return {'waits'}
end
if d['attempt:worker'] ~= worker then
  give_back(KEYS[1], d['attempt:worker'], nonce)
end
leave_line(nonce) -- who stood behind this one may be next
claim(KEYS[1], worker, nonce, math.max(tokens, mine or 0), now + tonumber(ARGV[10]))
redis.call('HSET', KEYS[3], 'attempt:worker', worker, 'attempt:tokens', text(math.max(tokens, mine or 0)))
return {'reserved'}
