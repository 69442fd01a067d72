-- Writes the record of a detached step, in place of one that has failed or was cancelled.
-- KEYS record, events
-- ARGV tenant, runner, request, context
-- NUMBERS lease_ms, ttl_ms
-- Replies 1 when the record is this run's, 0 when there is another one, of a step that runs or is committed

local state, runner = unpack(redis.call('HMGET', keys.record, 'state', 'runner'))
if state and state ~= 'failed' and state ~= 'cancelled' then
  return runner == args.runner and 1 or 0
end
redis.call('DEL', keys.record, keys.events)
redis.call('HSET', keys.record, 'tenant', args.tenant, 'request', args.request, 'context', args.context,
  'ttl', text(args.ttl_ms), 'state', 'queued', 'first_runner', args.runner, 'runner', args.runner,
  'expiry', text(now_ms() + args.lease_ms), 'logged', '0')
redis.call('PEXPIRE', keys.record, args.ttl_ms)
return 1
