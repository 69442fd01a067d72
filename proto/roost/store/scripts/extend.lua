-- Raises the limits of a session's budgets, or of those of its task. The request that did so last changes nothing.
-- KEYS task_account; the session's
-- ARGV tenant, scope (session or task), request (its id), base
-- NUMBERS generations, tokens, gpu_us, steps, wall_ms, task_ttl_ms (0: it lives for ever)
-- Replies {'done', now, descriptor}

local session = session_keys(named_keys + 1, args.generations, args.base)
local d, failure = read_session(session, args.tenant)
if not d then
  return failure
end
local now, key = now_ms(), args.scope == 'task' and keys.task_account or session.descriptor
if redis.call('HGET', key, 'more:request') ~= args.request then
  local added = {tokens = args.tokens, gpu_us = args.gpu_us, steps = args.steps, wall_ms = args.wall_ms}
  for field, amount in pairs(added) do
    redis.call('HINCRBY', key, 'more:' .. field, text(amount))
  end
  redis.call('HSET', key, 'more:request', args.request)
  if args.scope == 'task' then
    keep(key, args.task_ttl_ms > 0 and now + args.task_ttl_ms or NEVER)
  end
end
return {'done', now, describe(session)}
