-- Ends a session; its log stays readable. Closing a closed session changes nothing.
-- KEYS reservations, waiters, lines, wake, live, live_ends, live_shares, live_sums,
--   service, service_waiting, service_resting; the session's
-- ARGV tenant, base
-- NUMBERS generations, grace_ms
-- Replies {'done', now, descriptor}

local session = session_keys(named_keys + 1, args.generations, args.base)
local d, failure = read_session(session, args.tenant)
if not d then
  return failure
end
local now = now_ms()
if d.state ~= 'closed' then
  local busy = busy_ms(d, now, args.grace_ms)
  if busy then
    return refuse('busy', busy, d)
  end
  pass_memory_limit(keys.reservations)
  leave_working_set(keys, session.name)
  end_attempt(keys, session, d, now)
  redis.call('HDEL', session.descriptor, 'hold:tool', 'hold:expect', 'hold:begin')
  redis.call('HSET', session.descriptor, 'state', 'closed', 'updated', text(now))
end
return {'done', now, describe(session)}
