-- Takes an attempt at a step.
-- KEYS as in _common.lua, then: workers, lease and residency of each worker that the caller knows
-- ARGV as in _common.lua, then: 4 tenant, 5 step id, 6 digest, 7 expected length ('' none), 8 expected hash, 9 nonce,
--   10 seed, 11 lease ms, 12 new tokens, 13 most session tokens, 14 budget, 15 most steps, 16 class,
--   17 deadline in ms from now (0 none), 18 aging ms per class, 19 generation of the expected head (0 unknown),
--   20 revision that sessions of others migrate to ('' none), 21 session name, 22 `delay` of `cached_at`, then the names
--   of the known workers
-- Replies {'began', now, worker reserved at, tokens cached at the owner, descriptor} | {'committed', now, generation, index, descriptor}
--   | {'again', generations, worker to know}

local grace = tonumber(ARGV[2])
local step, digest, nonce = ARGV[5], ARGV[6], ARGV[9]
local lease_ms, new_tokens, class, aging = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[16]), tonumber(ARGV[18])
local d, failure = read_session(ARGV[4])
if not d then
  return failure
end
local now = now_ms()

local committed = redis.call('HGET', KEYS[4], step)
if committed then
  local generation, index, its_digest = string.match(committed, '^(%d+):(%d+):(%x*):%x*$')
  if its_digest ~= digest then
    return refuse('step_id_reused', 0, d)
  end
  return {'committed', now, tonumber(generation), tonumber(index), redis.call('HGETALL', KEYS[3])}
end

-- What the owner has of the log. It is read before anything is refused, since the caller may not know the owner yet.
local migrates = ARGV[20] ~= '' and d.steps > 0 and d.revision ~= '' and d.revision ~= ARGV[20]
local workers_at = 5 + 2 * d.generation
local lease_of, residency_of = {}, {}
for i = 23, #ARGV do
  lease_of[ARGV[i]], residency_of[ARGV[i]] = KEYS[workers_at + 2 * (i - 23) + 1], KEYS[workers_at + 2 * (i - 23) + 2]
end
local cached = 0
if d.owner ~= '' and not migrates and is_alive(KEYS[workers_at], d.owner, now, grace) then
  if not lease_of[d.owner] then
    return {'again', d.generation, d.owner}
  end
  cached = cached_at(KEYS[workers_at], d.owner, residency_of[d.owner], ARGV[21], d, now, tonumber(ARGV[22]))
end

local retry = d.live and d['attempt:step'] == step
if retry and d['attempt:digest'] ~= digest then
  return refuse('step_id_reused', 0, d)
end
local former = d['attempt:nonce']
local former_member = d['attempt:worker'] .. '|' .. former
if retry and former == nonce then -- the script was sent again, because its reply was lost
  local held = redis.call('HEXISTS', KEYS[1], former_member) == 1
  return {'began', now, held and d['attempt:worker'] or '', cached, redis.call('HGETALL', KEYS[3])}
end

if d.state == 'closed' then
  return refuse('closed', 0, d)
end
failure = wrong_log(d, ARGV[7], ARGV[8], ARGV[19])
if failure then
  return failure
end
local busy = busy_ms(d, now)
if busy and not retry then
  return refuse('busy', busy, d)
end
local most, budget, most_steps = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])
if budget > 0 and d.prompt + d.output + new_tokens > budget then
  return refuse('budget', 0, d, 'used ' .. text(d.prompt + d.output) .. ' of ' .. text(budget) ..
    ' tokens; this step may need ' .. text(new_tokens))
end
if most_steps > 0 and d.steps >= most_steps then
  return refuse('step_limit', 0, d, 'the session has its ' .. text(most_steps) .. ' steps')
end
if most > 0 and d.length + new_tokens > most and not migrates then
  return refuse('too_long', 0, d, 'the log has ' .. text(d.length) .. ' tokens and this step may need ' ..
    text(new_tokens) .. '; a session holds ' .. text(most))
end

-- Where to reserve: at the worker of the attempt that this one replaces, whose output may be resumed, else at the owner
-- while it has the session cached. A session that its owner has dropped is as well off anywhere.
local ledger = read_ledger(KEYS[1], now, grace)
local place, over = retry and waiter_of(former), {}
local enqueued = place and not is_over(place, now, grace) and place.enqueued or now
local tokens, reserved, line = d.length + new_tokens, '', nil
local candidates = {}
if retry and d['attempt:worker'] ~= '' then
  table.insert(candidates, d['attempt:worker'])
end
if cached > 0 and d.owner ~= candidates[1] then
  table.insert(candidates, d.owner)
end
for _, worker in ipairs(candidates) do
  if reserved == '' and is_alive(KEYS[workers_at], worker, now, grace) then
    if not lease_of[worker] then
      return {'again', d.generation, worker}
    end
    local lease = read_lease(lease_of[worker])
    local inherited = retry and worker == d['attempt:worker'] and tokens_of(ledger, former_member)
    local rank = rank_of(class, aging, enqueued)
    local first = inherited or not must_wait(revision_of(lease), rank, nonce, former, over, now, grace)
    local fits = has_room(ledger, lease, worker, tokens, former_member)
    if inherited and (inherited >= tokens or not fits) then
      reserved, tokens = worker, inherited -- to resume what is there it needs no more than it has
    elseif first and fits then
      reserved = worker
    else
      line = line or line_of(revision_of(lease))
    end
  end
end

local fenced = ''
if retry then
  fenced = text(d.epoch) .. ':' .. former .. ':' .. text(d['attempt:expiry']) .. ':' .. d['attempt:worker']
end
local expiry = text(now + lease_ms)
redis.call('HSET', KEYS[3], 'epoch', text(d.epoch + 1), 'attempt:nonce', nonce, 'attempt:step', step,
  'attempt:digest', digest, 'attempt:seed', retry and d['attempt:seed'] or ARGV[10], 'attempt:worker', reserved,
  'attempt:tokens', text(tokens), 'attempt:expiry', expiry, 'attempt:fenced', fenced, 'attempt:migrated', '')
redis.call('HDEL', KEYS[3], unpack(HOLD_FIELDS))
settle(ledger)
if d.live then
  drop_claims(d)
end
purge_waiters(over)
if reserved ~= '' then
  claim(KEYS[1], reserved, nonce, tokens, now + lease_ms)
elseif line then
  local deadline = tonumber(ARGV[17])
  enter_line(line, nonce, class, aging, enqueued, deadline > 0 and now + deadline or 0, expiry)
end
touch(d.ttl, now, 2 * lease_ms)
return {'began', now, reserved, cached, redis.call('HGETALL', KEYS[3])}
