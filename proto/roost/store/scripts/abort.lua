-- Ends an attempt that will not commit.
-- KEYS reservations, waiters, lines, wake, live, live_ends, live_shares, live_sums; the session's
-- ARGV nonce, base
-- NUMBERS generations, epoch
-- Replies {'aborted'}, also when the attempt is not live

local session = session_keys(named_keys + 1, args.generations, args.base)
local d, failure = read_session(session)
if not d then
  if failure[1] == 'again' then
    return failure
  end
  return {'aborted'}
end
if d['attempt:nonce'] == args.nonce and d.epoch == args.epoch then
  pass_memory_limit(keys.reservations)
  local now = now_ms()
  rest_live(keys, session.descriptor, d, now)
  end_attempt(keys, session, d)
  touch(session, d.ttl, now, 0)
end
return {'aborted'}
