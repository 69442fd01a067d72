-- Reads how a detached step stands.
-- KEYS record, events
-- ARGV tenant
-- NUMBERS grace_ms, first (place of the first event to reply; -1: none)
-- Replies {state, runner that began it, runner, 1 if its lease is in force else 0, 1 if the step is to be cancelled else 0, events logged so
--   far, failure ('' if none), the events}; {} when the tenant has no such step

local tenant, state, first_runner, runner, expiry, cancelled, logged, failure = unpack(redis.call('HMGET', keys.record,
  'tenant', 'state', 'first_runner', 'runner', 'expiry', 'cancelled', 'logged', 'failure'))
if tenant ~= args.tenant then
  return {}
end
expiry = tonumber(expiry)
local is_run = expiry > 0 and (expiry > now_ms() or args.grace_ms > 0)
local reply = {state, first_runner or '', runner, is_run and 1 or 0, cancelled and 1 or 0, tonumber(logged), failure or ''}
if args.first >= 0 then
  for _, event in ipairs(redis.call('LRANGE', keys.events, args.first, -1)) do
    table.insert(reply, event)
  end
end
return reply
