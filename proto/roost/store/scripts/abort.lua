-- Ends an attempt that will not commit.
-- KEYS reservations, waiters, lines, wake, live, live_ends, live_shares, live_sums,
--   service, service_waiting, service_resting; the session's
-- ARGV nonce, base
-- NUMBERS generations, epoch, prompt_tokens, output_tokens (of what was computed)
-- Replies {'aborted', the tenant's counter ('' without a session)}, also when the attempt is not live

local session = session_keys(named_keys + 1, args.generations, args.base)
local d, failure = read_session(session)
if not d then
  if failure[1] == 'again' then
    return failure
  end
  return {'aborted', ''}
end
if d['attempt:nonce'] == args.nonce and d.epoch == args.epoch then
  pass_memory_limit(keys.reservations)
  local now = now_ms()
  rest_live(keys, session.descriptor, d, now)
  end_attempt(keys, session, d, now, {context = d.length + args.prompt_tokens, output = args.output_tokens})
  touch(session, d.ttl, now, 0)
end
return {'aborted', text(stored_service(keys, d.tenant).counter)}
