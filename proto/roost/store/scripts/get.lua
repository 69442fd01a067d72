-- Reads descriptors.
-- KEYS tenant_sessions; descriptors
-- ARGV tenant; the sessions' names
-- Replies {now, a descriptor or '' for each}; names of sessions that are gone leave the tenant's set

local reply = {now_ms()}
for i = 1, #KEYS - named_keys do
  local descriptor = KEYS[named_keys + i]
  local tenant, state = unpack(redis.call('HMGET', descriptor, 'tenant', 'state'))
  if tenant == args.tenant and state ~= 'deleted' then
    table.insert(reply, redis.call('HGETALL', descriptor))
  else
    if not state then
      redis.call('ZREM', keys.tenant_sessions, ARGV[named_args + i])
    end
    table.insert(reply, '')
  end
end
return reply
