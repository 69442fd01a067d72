-- Begins a new generation for a live attempt: the log as another revision of the model renders it, or without thinking.
-- KEYS reservations, waiters, lines, wake, live, live_ends, live_shares, live_sums; the session's, with log, ids and forks of the new generation
-- ARGV nonce, previous_length, previous_hash, length, hash, revision, ids (packed), base, thinking (first step with some,
--   or '')
-- NUMBERS generations, epoch, ttl_ms (idle time), lease_ms; each step as `commit time:packed entry`
-- Replies {'migrated', now, descriptor}

local session = session_keys(named_keys + 1, args.generations, args.base)
local renewed = session_keys(named_keys + 1, args.generations + 1, args.base)
local d, failure = read_session(session)
if not d then
  return failure
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
if d.steps ~= #ARGV - named_args or 4 * tonumber(args.length) ~= #args.ids then
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
  'former', text(d.steps) .. ':' .. text(d.length) .. ':' .. d.hash .. ':' .. d.revision)
if d.revision ~= args.revision then -- else the owner has the beginning of the new log cached
  redis.call('HSET', session.descriptor, 'owner', '')
end
redis.call('HDEL', session.descriptor, 'kv')
touch(renewed, args.ttl_ms, now, 2 * args.lease_ms)
return {'migrated', now, describe(session)}
