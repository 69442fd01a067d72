-- Begins a new generation for a live attempt: the log as another revision of the model renders it, without thinking, or
-- folded: its first step is the attempt's own, which ends with that, and stands for the first steps of the old log.
-- KEYS reservations, waiters, lines, wake, live, live_ends, live_shares, live_sums,
--   service, service_waiting, service_resting; the session's, with log, ids and forks of the new generation
-- ARGV nonce, previous_length, previous_hash, length, hash, revision, ids (packed), base, thinking (first step with some,
--   or ''), fold_id (step id of the first step of a folded log, or '')
-- NUMBERS generations, epoch, ttl_ms (idle time), lease_ms, folded (steps that the first one stands for; 0 if the log is
--   not folded), renews_budget (1 if the session's budget begins again); each step as `commit time:packed entry`
-- Replies {'migrated', now, descriptor}

local session = session_keys(named_keys + 1, args.generations, args.base)
local renewed = session_keys(named_keys + 1, args.generations + 1, args.base)
local d, failure = read_session(session)
if not d then
  return failure
end
local folding = string.match(redis.call('HGET', session.steps, args.fold_id) or '', ':(%x*)$')
if folding == args.nonce then -- sent again, after it has ended the attempt
  return {'migrated', now_ms(), describe(session)}
end
if d['attempt:nonce'] ~= args.nonce or d.epoch ~= args.epoch then
  return refuse('fenced', 0, d)
end
local now = now_ms()
if d['attempt:migrated'] == 1 then -- sent again: an attempt migrates once
  return {'migrated', now, describe(session)}
end
failure = wrong_log(session, d, args.previous_length, args.previous_hash, d.generation)
if failure then
  return failure
end
local steps = d.steps - math.max(0, args.folded - 1)
if args.folded > d.steps or steps ~= #ARGV - named_args or 4 * tonumber(args.length) ~= #args.ids then
  return redis.error_reply('the new log does not have the steps of the old one, or not the ids of its head')
end

local generation = d.generation + 1
local log = renewed.logs[generation]
redis.call('SET', log.ids, args.ids)
redis.call('DEL', log.log)
for first = named_args + 1, #ARGV, 1000 do
  redis.call('RPUSH', log.log, unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
redis.call('HSET', session.descriptor, 'generation', text(generation), 'length', args.length, 'hash', args.hash,
  'revision', args.revision, 'updated', text(now), 'attempt:migrated', '1', 'thinking', args.thinking,
  'steps', text(steps), 'former', text(steps) .. ':' .. text(d.length) .. ':' .. d.hash .. ':' .. d.revision)
if d.revision ~= args.revision then -- else the owner has the beginning of the new log cached
  redis.call('HSET', session.descriptor, 'owner', '')
end
redis.call('HDEL', session.descriptor, 'kv')
if args.folded > 0 then
  local folds = redis.call('HGET', session.descriptor, 'folds') or ''
  redis.call('HSET', session.descriptor, 'folds', folds .. '|' .. text(generation) .. ':' .. text(args.folded))
  redis.call('HINCRBY', session.descriptor, 'folded', d.steps - steps)
  redis.call('HSET', session.steps, args.fold_id,
    text(generation) .. ':0:' .. d['attempt:digest'] .. ':' .. args.nonce)
  shrink_live(keys, session, tonumber(args.length), now)
  end_attempt(keys, session, d, now)
end
if args.renews_budget == 1 then
  renew_budget(session, now)
end
touch(renewed, args.ttl_ms, now, 2 * args.lease_ms)
return {'migrated', now, describe(session)}
