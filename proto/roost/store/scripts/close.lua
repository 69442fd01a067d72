-- Ends a session; its log stays readable. Closing a closed one changes nothing.
-- KEYS as in _common.lua
-- ARGV as in _common.lua, then: 4 tenant
-- Replies {'done', now, descriptor}

local d, failure = read_session(ARGV[4])
if not d then
  return failure
end
local now = now_ms()
if d.state ~= 'closed' then
  local busy = busy_ms(d, now)
  if busy then
    return refuse('busy', busy, d)
  end
  pass_memory_limit()
  end_attempt(d)
  redis.call('HDEL', KEYS[3], unpack(HOLD_FIELDS))
  redis.call('HSET', KEYS[3], 'state', 'closed', 'updated', text(now))
end
return {'done', now, redis.call('HGETALL', KEYS[3])}
