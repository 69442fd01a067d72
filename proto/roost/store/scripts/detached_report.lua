-- Logs events of a detached step, and renews the lease of the run that reports them.
-- KEYS record, events, news
-- ARGV runner, state, failure ('' if none); the events
-- NUMBERS first (place of the first event in the log), lease_ms (0: the lease is given back), ttl_ms, events_ttl_ms
-- Replies {'reported', 1 if the step is to be cancelled else 0} | {'refused', …}

local runner, cancelled, logged = unpack(redis.call('HMGET', keys.record, 'runner', 'cancelled', 'logged'))
if runner ~= args.runner or tonumber(logged) < args.first then
  return refuse('fenced')
end
pass_memory_limit(keys.record)
local count = #ARGV - named_args
for i = tonumber(logged) - args.first + 1, count do -- the others came before, and the reply to them was lost
  redis.call('RPUSH', keys.events, ARGV[named_args + i])
end
local expiry = args.lease_ms > 0 and now_ms() + args.lease_ms or 0
redis.call('HSET', keys.record, 'state', args.state, 'failure', args.failure, 'expiry', text(expiry),
  'logged', text(math.max(tonumber(logged), args.first + count)))
redis.call('PEXPIRE', keys.record, args.ttl_ms)
redis.call('PEXPIRE', keys.events, args.events_ttl_ms)
redis.call('PUBLISH', keys.news, '')
return {'reported', cancelled and 1 or 0}
