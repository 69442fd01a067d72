-- Gives a detached step to another run when the lease of the one that had it is not in force.
-- KEYS record
-- ARGV former, runner
-- NUMBERS grace_ms, lease_ms
-- Replies 1 when the step is this run's, 0 when it is another's, or over, or gone

local state, runner, expiry = unpack(redis.call('HMGET', keys.record, 'state', 'runner', 'expiry'))
if state ~= 'queued' and state ~= 'in_progress' then
  return 0
end
local now = now_ms()
expiry = tonumber(expiry)
if runner == args.former and (expiry == 0 or (expiry <= now and args.grace_ms == 0)) then
  pass_memory_limit(keys.record)
  redis.call('HSET', keys.record, 'runner', args.runner, 'expiry', text(now + args.lease_ms))
  return 1
end
return runner == args.runner and 1 or 0
