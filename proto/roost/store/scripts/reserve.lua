-- Reserves KV tokens at a worker for a live attempt, or gives it a place in the line of the revision that it needs.
-- KEYS reservations, waiters, lines, wake, workers, descriptor, lease
-- ARGV nonce, worker, revision (that the step needs, '' if any)
-- NUMBERS grace_ms, epoch, tokens, class, aging_ms, deadline_ms (from now; 0 if there is none), lease_ms
-- Replies {'reserved'} | {'waits'}

local nonce, worker, grace_ms = args.nonce, args.worker, args.grace_ms
local d = read_fields(keys.descriptor)
if not d then
  return refuse('not_found')
end
if d['attempt:nonce'] ~= nonce or d.epoch ~= args.epoch then
  return refuse('fenced', 0, d)
end
local now = now_ms()
local ledger = read_ledger(keys.reservations, now, grace_ms)
local member = worker .. '|' .. nonce
local place, over = waiter_of(keys, nonce), {}
local enqueued = place and not is_over(place, now, grace_ms) and place.enqueued or now
local mine = tokens_of(ledger, member)
local granted = mine and mine >= args.tokens
if not granted and is_alive(keys.workers, worker, now, grace_ms) then
  local lease = read_lease(keys.lease)
  local rank = rank_of(args.class, args.aging_ms, enqueued)
  if mine or not must_wait(keys, revision_of(lease), rank, nonce, nonce, over, now, grace_ms) then
    granted = has_room(ledger, lease, worker, args.tokens, member)
  end
end
if not granted then
  find_over(keys, over, now, grace_ms)
end

pass_memory_limit(keys.reservations)
settle(ledger)
purge_waiters(keys, over)
local expiry = now + args.lease_ms
if not granted then
  local deadline = args.deadline_ms > 0 and now + args.deadline_ms or 0
  enter_line(keys, line_of(args.revision), nonce, args.class, args.aging_ms, enqueued, deadline, text(expiry))
  return {'waits'}
end
if d['attempt:worker'] ~= worker then
  give_back(keys, d['attempt:worker'], nonce)
end
leave_line(keys, nonce) -- the step behind this one may be next
local tokens = math.max(args.tokens, mine or 0)
claim(keys.reservations, worker, nonce, tokens, expiry)
redis.call('HSET', keys.descriptor, 'attempt:worker', worker, 'attempt:tokens', text(tokens))
return {'reserved'}
