-- Reserves KV tokens at a worker for a live attempt, or gives it a place in the line of the revision that it needs.
-- KEYS reservations, waiters, lines, wake, live, live_ends, live_shares, live_sums,
--   service, service_waiting, service_resting, workers, descriptor, lease
-- ARGV nonce, worker, revision (that the step needs, '' if any), prefix (see begin.lua)
-- NUMBERS grace_ms, epoch, tokens, class, aging_ms, deadline_ms (from now; 0 if there is none), waited_ms,
--   lease_ms, prefix_tokens, admission, adapt_ms (see begin.lua), lost_tokens (of the log of a live session, which were
--   evicted while the step waited, so that it has to pass the gate; 0 if it has kept its KV)
-- Replies {'reserved', the tenant's counter} | {'waits', that counter, 1 if it is held at the gate, tokens of the
--   worker's live sessions, how many they may be, ms until the time of some live session is over (-1 if there is none)}

local nonce, worker, grace_ms = args.nonce, args.worker, args.grace_ms
local d = read_fields(keys.descriptor)
if not d then
  return refuse('not_found')
end
if d['attempt:nonce'] ~= nonce or d.epoch ~= args.epoch then
  return refuse('fenced', 0, d)
end
local now = now_ms()
settle_live(keys, now, grace_ms)
local name = string.match(keys.descriptor, '%w+$')
local live = read_live(keys, name)
local ledger = read_ledger(keys.reservations, now, grace_ms)
local member = worker .. '|' .. nonce
local place, over = waiter_of(keys, nonce), {}
local enqueued = math.min(place and not is_over(place, now, grace_ms) and place.enqueued or now, now - args.waited_ms)
local mine = tokens_of(ledger, member)
if args.lost_tokens > 0 and live and d['attempt:worker'] == '' then
  remove_live(keys, name)
  observe(keys, d.length, args.lost_tokens, now, args.adapt_ms)
  live = nil
end
local gated = args.admission == 1 and not live and not mine
local needed = footprint_of(keys.descriptor, d, args.tokens, args.prefix, args.prefix_tokens)
local waits = d['attempt:worker'] == ''
local service = (waits and join_service or find_service)(keys, d.tenant, now, grace_ms)
local granted, held, capacity = mine and mine >= args.tokens, false, 0
if not granted and is_alive(keys.workers, worker, now, grace_ms) then
  local lease = read_lease(keys.lease)
  local asking = place_of(args.class, args.aging_ms, enqueued, nonce, service.counter, now)
  capacity = tonumber(lease.capacity_tokens) or 0
  local fits = has_room(ledger, lease, worker, args.tokens, member)
  local open = not gated or admits(keys, worker, needed, capacity)
  local first = mine
    or not must_wait(keys, revision_of(lease), gated, asking, {[nonce] = true}, over, args.aging_ms, now, grace_ms)
  held = gated and (fits or not open)
  granted = first and fits and open
end
if not granted then
  find_over(keys, over, now, grace_ms)
end

pass_memory_limit(keys.reservations)
settle(ledger)
purge_waiters(keys, over)
local expiry = now + args.lease_ms
if waits then
  service.waiting = math.max(1, service.waiting)
  service.until_ms = math.max(service.until_ms, expiry)
end
if not granted then
  save_service(keys, service, now)
  local deadline = args.deadline_ms > 0 and now + args.deadline_ms or 0
  local line = line_of(args.revision, gated)
  enter_line(keys, line, nonce, d.tenant, args.class, args.aging_ms, enqueued, deadline, text(expiry))
  local first_end = redis.call('ZRANGE', keys.live_ends, 0, 0, 'WITHSCORES')[2]
  return {'waits', text(service.counter), held and 1 or 0, (live_at(keys, worker)), live_limit(keys, capacity),
    first_end and tonumber(first_end) - now or -1}
end
if d['attempt:worker'] ~= worker then
  give_back(keys, d['attempt:worker'], nonce)
end
leave_line(keys, nonce) -- the step behind this one may be next
local tokens = math.max(args.tokens, mine or 0)
claim(keys.reservations, worker, nonce, tokens, expiry)
if args.admission > 0 then
  enter_working_set(keys, name, worker, needed, now, live, mine)
end
local demand = read_demand(d)
if waits then
  stop_waiting(service)
end
charge_service(keys, service, demand, d.length)
save_service(keys, service, now)
redis.call('HSET', keys.descriptor, 'attempt:worker', worker, 'attempt:tokens', text(tokens),
  'attempt:service', demand_text(demand))
return {'reserved', text(service.counter)}
