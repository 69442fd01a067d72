-- Writes a new session.
-- KEYS session, tenant_sessions; the session that the request opened, if the request has an id
-- ARGV session_id, erased (name that the last key may hold although that session is gone, or '')
-- NUMBERS watermark (part of maxmemory above which nothing is opened, 0 if there is none), ttl_ms (idle time),
--   request_ms (how long the request id is kept); fields and values of the descriptor
-- Replies {'done', now, descriptor} | {'exists', session name}

local now, opened_by_request = now_ms(), KEYS[named_keys + 1]
local state = redis.call('HGET', keys.session, 'state')
if state == 'deleted' then
  return refuse('not_found')
end
if state then -- sent again: names are never used twice
  return {'done', now, redis.call('HGETALL', keys.session)}
end
if opened_by_request then
  local opened = redis.call('GET', opened_by_request)
  if opened and opened ~= args.erased then
    return {'exists', opened}
  end
end

local failure = store_full(args.watermark)
if failure then
  return failure
end
local expires = args.ttl_ms > 0 and now + args.ttl_ms or 0
redis.call('HSET', keys.session, 'created', text(now), 'updated', text(now), 'expires', text(expires),
  'ttl', text(args.ttl_ms), unpack(ARGV, named_args + 1))
redis.call('ZADD', keys.tenant_sessions, 0, args.session_id)
if args.ttl_ms > 0 then
  redis.call('PEXPIREAT', keys.session, text(expires))
end
if opened_by_request then
  redis.call('SET', opened_by_request, args.session_id, 'PX', args.request_ms)
end
return {'done', now, redis.call('HGETALL', keys.session)}
