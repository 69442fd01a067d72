-- Erases a session. A tombstone without content stays for a while, so that a script sent again answers the same.
-- KEYS reservations, waiters, lines, wake, tenant_sessions; the session's
-- ARGV tenant, request (nonce), session_id
-- NUMBERS generations, grace_ms, tombstone_ms
-- Replies {'done', epoch}

local session = session_keys(named_keys + 1, args.generations)
local d, failure = read_session(session, args.tenant)
if not d then
  local request, epoch = last_request(session)
  if request == args.request then
    return {'done', epoch}
  end
  return failure
end
local busy = busy_ms(d, now_ms(), args.grace_ms)
if busy then
  return refuse('busy', busy, d)
end
pass_memory_limit(keys.reservations)
end_attempt(keys, session, d)
each_key(session, function(key) redis.call('DEL', key) end)
redis.call('ZREM', keys.tenant_sessions, args.session_id)
redis.call('HSET', session.descriptor, 'state', 'deleted', 'request', args.request .. ':' .. text(d.epoch + 1))
redis.call('PEXPIRE', session.descriptor, args.tombstone_ms)
return {'done', d.epoch + 1}
