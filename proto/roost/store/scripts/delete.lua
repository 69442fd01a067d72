-- Erases a session. For a minute a tombstone without content stays, so that a script sent again answers the same.
-- KEYS as in _common.lua, then: the tenant's sessions
-- ARGV as in _common.lua, then: 4 tenant, 5 request nonce, 6 session name, 7 ms that the tombstone stays
-- Replies {'done', epoch}

local d, failure = read_session(ARGV[4])
if not d then
  local before, its_epoch = last_request(KEYS[3])
  if before == ARGV[5] then
    return {'done', its_epoch}
  end
  return failure
end
local busy = busy_ms(d, now_ms())
if busy then
  return refuse('busy', busy, d)
end
pass_memory_limit()
end_attempt(d)
for i = 3, 4 + 2 * d.generation do
  redis.call('DEL', KEYS[i])
end
redis.call('ZREM', KEYS[5 + 2 * d.generation], ARGV[6])
redis.call('HSET', KEYS[3], 'state', 'deleted', 'request', ARGV[5] .. ':' .. text(d.epoch + 1))
redis.call('PEXPIRE', KEYS[3], ARGV[7])
return {'done', d.epoch + 1}
