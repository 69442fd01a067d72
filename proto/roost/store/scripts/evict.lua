-- Takes an epoch for an eviction and forgets the owner.
-- KEYS reservations, waiters, lines, wake, live, live_ends, live_shares, live_sums,
--   service, service_waiting, service_resting; the session's
-- ARGV tenant, request (nonce), base
-- NUMBERS generations, grace_ms
-- Replies {'done', now, descriptor, epoch}

local session = session_keys(named_keys + 1, args.generations, args.base)
local d, failure = read_session(session, args.tenant)
if not d then
  return failure
end
local now = now_ms()
local request, epoch = last_request(session)
if request == args.request then
  return {'done', now, describe(session), epoch}
end
local busy = busy_ms(d, now, args.grace_ms)
if busy then
  return refuse('busy', busy, d)
end
pass_memory_limit(keys.reservations)
leave_working_set(keys, session.name)
end_attempt(keys, session, d, now)
epoch = d.epoch + 1
redis.call('HDEL', session.descriptor, 'kv')
redis.call('HSET', session.descriptor, 'epoch', text(epoch), 'owner', '', 'request', args.request .. ':' .. text(epoch))
return {'done', now, describe(session), epoch}
