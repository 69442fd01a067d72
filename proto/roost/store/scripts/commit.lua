-- Appends a step to the log, if the attempt is still live.
-- KEYS reservations, waiters, lines, wake, live, live_ends, live_shares, live_sums,
--   service, service_waiting, service_resting, task_account, role_account, tenant_account; the session's
-- ARGV nonce, step_id, previous_length, previous_hash, length, hash, entry (packed), ids (packed), owner, prompt,
--   output, cached, reconstructed (tokens of each kind), revision, rules (of budgets, see _budgets.lua),
--   calls (hash of the step's calls, '' without), base
-- NUMBERS generations, epoch, ttl_ms (idle time), thinking (1 if the model thought in the step), uncached_tokens,
--   gpu_us, opens_turn (1 if the step begins with a user's message), adapt_ms (see begin.lua)
-- Replies {'committed', index, stored entry, budgets to warn of, what the step's calls repeat (see _repetition.lua),
--   the tenant's counter}

local session = session_keys(named_keys + 1, args.generations, args.base)
local d, failure = read_session(session)
if not d then
  return failure
end
local now, rules = now_ms(), cjson.decode(args.rules)
local accounts = accounts_of(session, keys, rules, now)
local committed = redis.call('HGET', session.steps, args.step_id)
if committed then
  local generation, index, nonce = string.match(committed, '^(%d+):(%d+):%x*:(%x*)$')
  if nonce ~= args.nonce then
    return refuse('fenced', 0, d)
  end
  local log = session.logs[tonumber(generation)]
  return {'committed', tonumber(index), redis.call('LINDEX', log.log, index - log.before),
    (used_budgets(accounts, rules, rules.warn)), repeats_of(session), text(stored_service(keys, d.tenant).counter)}
end
if d['attempt:nonce'] ~= args.nonce or d.epoch ~= args.epoch or d['attempt:step'] ~= args.step_id then
  return refuse('fenced', 0, d)
end
failure = wrong_log(session, d, args.previous_length, args.previous_hash, d.generation)
if failure then
  return failure
end
if d.steps > 0 and d.revision ~= '' and d.revision ~= args.revision then
  return refuse('wrong_revision', 0, d,
    'this generation belongs to revision ' .. d.revision .. ', not ' .. args.revision)
end

pass_memory_limit(keys.reservations)
local entry = text(now) .. ':' .. args.entry
local log = session.logs[d.generation]
local index = log.before + redis.call('RPUSH', log.log, entry) - 1
redis.call('APPEND', log.ids, args.ids)
redis.call('HSET', session.steps, args.step_id,
  text(d.generation) .. ':' .. text(index) .. ':' .. d['attempt:digest'] .. ':' .. args.nonce)
redis.call('HSET', session.descriptor, 'length', args.length, 'hash', args.hash, 'steps', text(d.steps + 1),
  'owner', args.owner, 'revision', args.revision, 'updated', text(now))
redis.call('HDEL', session.descriptor, 'kv')
for _, kind in ipairs({'prompt', 'output', 'cached', 'reconstructed'}) do
  redis.call('HINCRBY', session.descriptor, kind, args[kind])
end
if args.thinking == 1 and not holds_thinking(session, d) then
  redis.call('HSET', session.descriptor, 'thinking', text(index))
end
local live = mend_live(keys) and read_live(keys, session.name)
local lost = tonumber(args.reconstructed)
local is_rewritten = tonumber(string.match(d.former, '^(%d+):')) == d.steps -- what is computed again was not evicted
local counts = live and live.promised and not is_rewritten
if counts then
  observe(keys, d.length, lost, now, args.adapt_ms)
end
if counts and is_mostly_lost(d.length, d.length - lost) then -- *Begin* came before residency was published
  remove_live(keys, session.name)
elseif live then
  local needed = footprint_of(session.descriptor, d, tonumber(args.length), live.prefix, live.prefix_tokens)
  put_live(keys, session.name, args.owner, needed, now + WORKING_SET.IDLE_MS, false)
end
local is_grace = redis.call('HGET', session.descriptor, 'attempt:grace') == '1'
spend(accounts, rules, {tokens = args.uncached_tokens, gpu_us = args.gpu_us, steps = 1}, is_grace, now)
note_calls(accounts, rules, args.calls, args.opens_turn == 1)
local done = {context = d.length + tonumber(args.prompt), output = tonumber(args.output), is_whole = true}
end_attempt(keys, session, d, now, done)
touch(session, args.ttl_ms, now, 0)
return {'committed', index, entry, (used_budgets(accounts, rules, rules.warn)), repeats_of(session),
  text(stored_service(keys, d.tenant).counter)}
