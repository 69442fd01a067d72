-- Lets one gateway move the sessions of a worker that is about to drain.
-- KEYS mover
-- ARGV gateway, value (what the key then holds: the gateway, or that it is done)
-- NUMBERS lease_ms
-- Replies {'held'} | {'taken'}

local holder = redis.call('GET', keys.mover)
if holder and holder ~= args.gateway and holder ~= args.value then
  return {'taken'}
end
if holder == args.value and args.value ~= args.gateway then
  return {'held'} -- sent again
end
redis.call('SET', keys.mover, args.value, 'PX', args.lease_ms)
return {'held'}
