-- Reads descriptors.
-- KEYS 1 the tenant's sessions, then descriptors
-- ARGV 1 tenant, then the sessions' names
-- Replies {now, a descriptor or '' for each}; names of sessions that are gone leave the tenant's set

local reply = {now_ms()}
for i = 2, #KEYS do
  local found = redis.call('HMGET', KEYS[i], 'tenant', 'state')
  if found[1] == ARGV[1] and found[2] ~= 'deleted' then
    table.insert(reply, redis.call('HGETALL', KEYS[i]))
  else
    if not found[2] then
      redis.call('ZREM', KEYS[1], ARGV[i])
    end
    table.insert(reply, '')
  end
end
return reply
