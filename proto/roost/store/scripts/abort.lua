-- Ends an attempt that will not commit.
-- KEYS as in _common.lua
-- ARGV as in _common.lua, then: 4 epoch, 5 nonce
-- Replies {'aborted'}, also when the attempt is not live

local d, failure = read_session()
if not d then
  if failure[1] == 'again' then
    return failure
  end
  return {'aborted'}
end
if d['attempt:nonce'] == ARGV[5] and d.epoch == tonumber(ARGV[4]) then
  pass_memory_limit()
  end_attempt(d)
  touch(d.ttl, now_ms(), 0)
end
return {'aborted'}
