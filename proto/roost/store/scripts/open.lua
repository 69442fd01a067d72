-- Writes a new session.
-- KEYS 1 descriptor, 2 the tenant's sessions, 3 (only with a request id) the session that the request made
-- ARGV 1 session name, 2 name that KEYS 3 may hold and that is gone ('' none), 3 memory watermark (0 none),
--   4 idle time in ms, 5 ms that the request id is kept, then fields and values of the descriptor
-- Replies {'done', now, descriptor} | {'exists', session name}

local name, now = ARGV[1], now_ms()
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'deleted' then
  return refuse('not_found')
end
if state then -- sent again: names are never used twice
  return {'done', now, redis.call('HGETALL', KEYS[1])}
end
if KEYS[3] then
  local before = redis.call('GET', KEYS[3])
  if before and before ~= ARGV[2] then
    return {'exists', before}
  end
end

local watermark = tonumber(ARGV[3])
if watermark > 0 then
  local info = redis.pcall('INFO', 'memory') -- an error, where INFO is forbidden, is a table
  local used = type(info) == 'string' and string.match(info, 'used_memory:(%d+)')
  local most = type(info) == 'string' and string.match(info, 'maxmemory:(%d+)')
  if used and most and tonumber(most) > 0 and tonumber(used) > watermark * tonumber(most) then
    return refuse('store_full', 0, nil, 'Redis uses ' .. used .. ' of ' .. most ..
      ' bytes; raise maxmemory, or delete sessions')
  end
end

local ttl = tonumber(ARGV[4])
local expires = ttl > 0 and now + ttl or 0
redis.call('HSET', KEYS[1], 'created', text(now), 'updated', text(now), 'expires', text(expires), 'ttl', text(ttl),
  unpack(ARGV, 6))
redis.call('ZADD', KEYS[2], 0, name)
if ttl > 0 then
  redis.call('PEXPIREAT', KEYS[1], text(expires))
end
if KEYS[3] then
  redis.call('SET', KEYS[3], name, 'PX', ARGV[5])
end
return {'done', now, redis.call('HGETALL', KEYS[1])}
