-- Erases a session, but for what forks need of it; with an expected head only if that is still its head. A tombstone
-- stays for a while, so that a script sent again answers the same.
-- KEYS reservations, waiters, lines, wake, live, live_ends, live_shares, live_sums,
--   service, service_waiting, service_resting, tenant_sessions; the session's
-- ARGV tenant, request (nonce), session_id, expected_length ('' if none), expected_hash, base
-- NUMBERS generations, grace_ms, expected_generation (0 if unknown)
-- Replies {'done', epoch}

local session = session_keys(named_keys + 1, args.generations, args.base)
local d, failure = read_session(session, args.tenant)
if not d then
  local request, epoch = last_request(session)
  if request == args.request then
    return {'done', epoch}
  end
  return failure
end
failure = wrong_head(d, args.expected_length, args.expected_hash, args.expected_generation)
if failure then
  return failure
end
local now = now_ms()
local busy = busy_ms(d, now, args.grace_ms)
if busy then
  return refuse('busy', busy, d)
end
pass_memory_limit(keys.reservations)
leave_working_set(keys, session.name)
end_attempt(keys, session, d, now)
redis.call('ZREM', keys.tenant_sessions, args.session_id)
erase(session, args.request .. ':' .. text(d.epoch + 1), now)
return {'done', d.epoch + 1}
