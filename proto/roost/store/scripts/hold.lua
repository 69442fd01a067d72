-- Records why the client pauses.
-- KEYS as in _common.lua
-- ARGV as in _common.lua, then: 4 tenant, 5 request nonce, 6 tool, 7 expected seconds, 8 expected length ('' none),
--   9 expected hash, 10 its generation (0 unknown)
-- Replies {'done', now, descriptor}

local d, failure = read_session(ARGV[4])
if not d then
  return failure
end
local now = now_ms()
if last_request(KEYS[3]) ~= ARGV[5] then
  if d.state == 'closed' then
    return refuse('closed', 0, d)
  end
  failure = wrong_head(d, ARGV[8], ARGV[9], ARGV[10])
  if failure then
    return failure
  end
  local busy = busy_ms(d, now)
  if busy then
    return refuse('busy', busy, d)
  end
  redis.call('HSET', KEYS[3], 'hold:tool', ARGV[6], 'hold:expect', ARGV[7], 'hold:begin', text(now),
    'updated', text(now), 'request', ARGV[5] .. ':' .. text(d.epoch))
  end_attempt(d)
  touch(d.ttl, now, 0)
end
return {'done', now, redis.call('HGETALL', KEYS[3])}
