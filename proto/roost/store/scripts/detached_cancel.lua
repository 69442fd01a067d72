-- Notes that a detached step is to be cancelled, unless it is over.
-- KEYS record, news
-- ARGV tenant
-- Replies 1 when that is noted, else 0

local tenant, state = unpack(redis.call('HMGET', keys.record, 'tenant', 'state'))
if tenant ~= args.tenant or (state ~= 'queued' and state ~= 'in_progress') then
  return 0
end
pass_memory_limit(keys.record)
redis.call('HSET', keys.record, 'cancelled', '1')
redis.call('PUBLISH', keys.news, '')
return 1
