-- Takes an attempt at a step.
-- KEYS reservations, waiters, lines, wake, live, live_ends, live_shares, live_sums,
--   service, service_waiting, service_resting, workers, quarantine (of the step's digest in the family), task_account,
--   role_account, tenant_account; the session's, then lease and residency of each host
-- ARGV session_id, tenant, step_id, digest, nonce, seed, expected_length ('' if none), expected_hash,
--   migrates_to (revision that sessions of others migrate to, '' if they do not), rules (of budgets, see _budgets.lua),
--   prefix (hash of system text and tools, '' if none), first_worker (where to reserve for a session without a log, ''
--   if nowhere), base
-- NUMBERS generations, grace_ms, expected_generation (0 if unknown), lease_ms, new_tokens, max_session_tokens,
--   budget_tokens, max_steps (0 for each if there is no limit), drops_thinking (1 if thinking in the log goes before the
--   step, so that the log becomes shorter), opens_turn (1 if the step begins with a user's message), class, aging_ms,
--   deadline_ms (from now; 0 if there is none), residency_delay_ms (see `cached_at`), weight (of the tenant),
--   prompt_tokens, output_tokens (the most; see `read_demand`), prefix_tokens, admission (0 if
--   sessions are not counted, 1 if this one has to be live or to pass the gate, 2 if it need not), adapt_ms (least time
--   between changes of the target); the hosts: workers that the caller knows to concern the session
-- Replies {'began', now, worker reserved at, tokens cached at the owner, tokens behind those in its host memory, 1 if the
--   session is not live and has to pass the gate, descriptor, budgets to warn of, the tenant's counter}
--   | {'committed', now, generation, index, descriptor} | {'again', generations, base, host to name}

local session, first_host = session_keys(named_keys + 1, args.generations, args.base)
local nonce, grace_ms = args.nonce, args.grace_ms
local d, failure = read_session(session, args.tenant)
if not d then
  return failure
end
local now = now_ms()

local committed = redis.call('HGET', session.steps, args.step_id)
if committed then
  local generation, index, digest = string.match(committed, '^(%d+):(%d+):(%x*):%x*$')
  if digest ~= args.digest then
    return refuse('step_id_reused', 0, d)
  end
  return {'committed', now, tonumber(generation), tonumber(index), describe(session)}
end

-- What the owner has of the log. It is read before anything is refused, since the caller may not know the owner yet.
local migrates = args.migrates_to ~= '' and d.steps > 0 and d.revision ~= '' and d.revision ~= args.migrates_to
local lease_of, residency_of = {}, {}
for i = named_args + 1, #ARGV do
  local key = first_host + 2 * (i - named_args - 1)
  lease_of[ARGV[i]], residency_of[ARGV[i]] = KEYS[key], KEYS[key + 1]
end
local cached, warm = 0, 0
if d.owner ~= '' and not migrates and is_alive(keys.workers, d.owner, now, grace_ms) then
  if not lease_of[d.owner] then
    return again(d, d.owner)
  end
  cached, warm =
    cached_at(keys.workers, d.owner, residency_of[d.owner], args.session_id, d, now, args.residency_delay_ms)
end

local retry = d.live and d['attempt:step'] == args.step_id
if retry and d['attempt:digest'] ~= args.digest then
  return refuse('step_id_reused', 0, d)
end
settle_live(keys, now, grace_ms)
local live, lost_live = read_live(keys, session.name), false
if live and live.worker == d.owner and not d.live and not migrates then
  local capacity = lease_of[d.owner] and tonumber(read_lease(lease_of[d.owner]).capacity_tokens) or 0
  if is_evicted(keys, d.owner, capacity, d.length, cached + warm) then
    live, lost_live = nil, true
  end
end
local gated = args.admission == 1 and not live
local rules = cjson.decode(args.rules)
local accounts = accounts_of(session, keys, rules, now)
local warnings = used_budgets(accounts, rules, rules.warn)
local former = d['attempt:nonce']
local former_member = d['attempt:worker'] .. '|' .. former
if retry and former == nonce then -- the script was sent again, because its reply was lost
  local is_reserved = redis.call('HEXISTS', keys.reservations, former_member) == 1
  local reserved_at_worker = is_reserved and d['attempt:worker'] or ''
  return {'began', now, reserved_at_worker, cached, warm, gated and not is_reserved and 1 or 0, describe(session),
    warnings, text(stored_service(keys, d.tenant).counter)}
end

if d.state == 'closed' then
  return refuse('closed', 0, d)
end
failure = wrong_log(session, d, args.expected_length, args.expected_hash, args.expected_generation)
if failure then
  return failure
end
local busy = busy_ms(d, now, grace_ms)
if busy and not retry then
  return refuse('busy', busy, d)
end
local quarantine_ms = redis.call('PTTL', keys.quarantine)
if quarantine_ms > 0 then
  return refuse('killed_workers', quarantine_ms, d)
end
if args.budget_tokens > 0 and d.prompt + d.output + args.new_tokens > args.budget_tokens then
  return refuse('budget', 0, d, 'used ' .. text(d.prompt + d.output) .. ' of ' .. text(args.budget_tokens) ..
    ' tokens; this step may need ' .. text(args.new_tokens))
end
local folded = tonumber(redis.call('HGET', session.descriptor, 'folded')) or 0
if args.max_steps > 0 and d.steps + folded - d.inherited >= args.max_steps then
  return refuse('step_limit', 0, d, 'the session has its ' .. text(args.max_steps) .. ' steps')
end
if args.max_session_tokens > 0 and d.length + args.new_tokens > args.max_session_tokens and not migrates
  and not (args.drops_thinking == 1 and holds_thinking(session, d)) then
  return refuse('too_long', 0, d, 'the log has ' .. text(d.length) .. ' tokens and this step may need ' ..
    text(args.new_tokens) .. '; a session holds ' .. text(args.max_session_tokens))
end

local is_grace = retry and redis.call('HGET', session.descriptor, 'attempt:grace') == '1'
if not retry then -- a step that has begun is finished, whoever takes it over
  local repeats = repeats_of(session)
  if rules.stops and repeats ~= '' and args.opens_turn == 0 then
    return refuse('repeats', 0, d, repeats)
  end
  failure, is_grace = over_budget(accounts, rules, d)
  if failure then
    return failure
  end
end
if lost_live then
  remove_live(keys, session.name)
  if is_alive(keys.workers, d.owner, now, grace_ms) then -- else it is lost with its worker
    observe(keys, d.length, d.length - cached - warm, now, args.adapt_ms)
  end
end

-- Where to reserve: at the worker of the attempt that this one replaces, whose output may be resumed, else at the owner
-- while it has the session cached, else, while the session has no log, at the worker that the gateway has chosen: the
-- step waits for the former two, but not for the latter. If the owner has dropped the session's KV, none is preferred.
local ledger = read_ledger(keys.reservations, now, grace_ms)
local place, over = retry and waiter_of(keys, former), {}
local service = join_service(keys, d.tenant, now, grace_ms)
local enqueued = place and not is_over(place, now, grace_ms) and place.enqueued or now
local tokens, reserved, line = d.length + args.new_tokens, '', nil
local needed = footprint_of(session.descriptor, d, tokens, args.prefix, args.prefix_tokens)
local own = {[nonce] = true, [former] = true}
local asking = place_of(args.class, args.aging_ms, enqueued, nonce, service.counter, now)
local candidates = {}
if retry and d['attempt:worker'] ~= '' then
  table.insert(candidates, d['attempt:worker'])
end
if cached > 0 and d.owner ~= candidates[1] then
  table.insert(candidates, d.owner)
end
local waits_for_none = #candidates == 0
if waits_for_none and d.steps == 0 and args.first_worker ~= '' then
  candidates[1] = args.first_worker
end
for _, worker in ipairs(candidates) do
  if reserved == '' and is_alive(keys.workers, worker, now, grace_ms) then
    if not lease_of[worker] then
      return again(d, worker)
    end
    local lease = read_lease(lease_of[worker])
    local inherited = retry and worker == d['attempt:worker'] and tokens_of(ledger, former_member)
    local revision = revision_of(lease)
    local first = inherited
      or not must_wait(keys, revision, gated, asking, own, over, args.aging_ms, now, grace_ms)
    local fits = has_room(ledger, lease, worker, tokens, worker .. '|' .. former)
      and (inherited or not gated or admits(keys, worker, needed, tonumber(lease.capacity_tokens) or 0))
    if inherited and (inherited >= tokens or not fits) then
      reserved, tokens = worker, inherited -- to resume what is there it needs no more than it has
    elseif first and fits then
      reserved = worker
    elseif not waits_for_none then
      line = line or line_of(revision, gated)
    end
  end
end
if reserved == '' and line then
  find_over(keys, over, now, grace_ms)
end

local fenced = ''
if retry then
  fenced = text(d.epoch) .. ':' .. former .. ':' .. text(d['attempt:expiry']) .. ':' .. d['attempt:worker']
end
local expiry = text(now + args.lease_ms)
local demand = {weight = args.weight, prompt = args.prompt_tokens, output = args.output_tokens,
  charged = retry and read_demand(d).charged or nil}
if d.live and d['attempt:worker'] == '' then
  stop_waiting(service)
end
redis.call('HSET', session.descriptor, 'epoch', text(d.epoch + 1), 'attempt:nonce', nonce,
  'attempt:step', args.step_id, 'attempt:digest', args.digest, 'attempt:seed', retry and d['attempt:seed'] or args.seed,
  'attempt:worker', reserved, 'attempt:tokens', text(tokens), 'attempt:expiry', expiry, 'attempt:fenced', fenced,
  'attempt:migrated', '', 'attempt:grace', is_grace and '1' or '')
start_clocks(accounts, rules, now)
redis.call('HDEL', session.descriptor, 'hold:tool', 'hold:expect', 'hold:begin')
settle(ledger)
if d.live then
  drop_claims(keys, d)
end
if reserved ~= '' then
  charge_service(keys, service, demand, d.length)
else
  start_waiting(service, now + args.lease_ms)
end
save_service(keys, service, now)
redis.call('HSET', session.descriptor, 'attempt:service', demand_text(demand))
purge_waiters(keys, over)
if live then
  renew_live(keys, session.name, now)
end
if reserved ~= '' then
  claim(keys.reservations, reserved, nonce, tokens, now + args.lease_ms)
  if args.admission > 0 then
    enter_working_set(keys, session.name, reserved, needed, now, live, retry and reserved == d['attempt:worker'])
  end
elseif line then
  local deadline = args.deadline_ms > 0 and now + args.deadline_ms or 0
  enter_line(keys, line, nonce, d.tenant, args.class, args.aging_ms, enqueued, deadline, expiry)
end
touch(session, d.ttl, now, 2 * args.lease_ms)
return {'began', now, reserved, cached, warm, gated and reserved == '' and 1 or 0, describe(session), warnings,
  text(service.counter)}
