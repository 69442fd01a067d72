-- Records why the client pauses.
-- KEYS reservations, waiters, lines, wake, live, live_ends, live_shares, live_sums,
--   service, service_waiting, service_resting; the session's
-- ARGV tenant, request (nonce), tool, expect_seconds, expected_length ('' if none), expected_hash, base
-- NUMBERS generations, grace_ms, expected_generation (0 if unknown)
-- Replies {'done', now, descriptor}

local session = session_keys(named_keys + 1, args.generations, args.base)
local d, failure = read_session(session, args.tenant)
if not d then
  return failure
end
local now = now_ms()
if last_request(session) ~= args.request then
  if d.state == 'closed' then
    return refuse('closed', 0, d)
  end
  failure = wrong_head(d, args.expected_length, args.expected_hash, args.expected_generation)
  if failure then
    return failure
  end
  local busy = busy_ms(d, now, args.grace_ms)
  if busy then
    return refuse('busy', busy, d)
  end
  redis.call('HSET', session.descriptor, 'hold:tool', args.tool, 'hold:expect', args.expect_seconds,
    'hold:begin', text(now), 'updated', text(now), 'request', args.request .. ':' .. text(d.epoch))
  rest_live(keys, session.descriptor, d, now, now + pause_ms(tonumber(args.expect_seconds)))
  end_attempt(keys, session, d, now)
  touch(session, d.ttl, now, 0)
end
return {'done', now, describe(session)}
