-- Takes an epoch for an eviction and forgets the owner.
-- KEYS as in _common.lua
-- ARGV as in _common.lua, then: 4 tenant, 5 request nonce
-- Replies {'done', now, descriptor, epoch}

local d, failure = read_session(ARGV[4])
if not d then
  return failure
end
local now = now_ms()
local before, its_epoch = last_request(KEYS[3])
if before == ARGV[5] then
  return {'done', now, redis.call('HGETALL', KEYS[3]), its_epoch}
end
local busy = busy_ms(d, now)
if busy then
  return refuse('busy', busy, d)
end
pass_memory_limit()
end_attempt(d)
redis.call('HSET', KEYS[3], 'epoch', text(d.epoch + 1), 'owner', '', 'request', ARGV[5] .. ':' .. text(d.epoch + 1))
return {'done', now, redis.call('HGETALL', KEYS[3]), d.epoch + 1}
