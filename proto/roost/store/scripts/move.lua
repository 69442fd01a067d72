-- Makes another worker the owner of a session, whose log's KV was computed there.
-- KEYS reservations, waiters, lines, wake, live, live_ends, live_shares, live_sums,
--   service, service_waiting, service_resting, mover (of the owner); the session's
-- ARGV gateway, request (nonce), worker (owner before), to, length, hash (of the log that was computed), base
-- NUMBERS generations, generation (of that log)
-- Replies {'moved', epoch}

local session = session_keys(named_keys + 1, args.generations, args.base)
local d, failure = read_session(session)
if not d then
  return failure
end
local request, epoch = last_request(session)
if request == args.request then
  return {'moved', epoch}
end
if d.state == 'closed' then
  return refuse('closed', 0, d)
end
if redis.call('GET', keys.mover) ~= args.gateway or d.owner ~= args.worker then
  return refuse('fenced', 0, d)
end
if d.live then
  return refuse('busy', 0, d)
end
failure = wrong_head(d, args.length, args.hash, args.generation)
if failure then
  return failure
end
local live = mend_live(keys) and read_live(keys, session.name)
if live and live.worker == args.worker then
  local end_ms = tonumber(redis.call('ZSCORE', keys.live_ends, session.name))
  put_live(keys, session.name, args.to, live, end_ms, live.promised)
end
epoch = d.epoch + 1
redis.call('HDEL', session.descriptor, 'kv')
redis.call('HSET', session.descriptor, 'epoch', text(epoch), 'owner', args.to,
  'moved', text(now_ms()), 'request', args.request .. ':' .. text(epoch))
return {'moved', epoch}
