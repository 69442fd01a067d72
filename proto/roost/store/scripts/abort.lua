-- Ends an attempt that will not commit.
-- KEYS reservations, waiters, lines, wake; the session's
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
  end_attempt(keys, session, d)
  touch(session, d.ttl, now_ms(), 0)
end
return {'aborted'}
