-- Writes a conversation that a client has created, unless another request has changed it.
-- KEYS conversation
-- ARGV before (version that is replaced, '' for a new conversation), version, body
-- NUMBERS watermark (see open.lua; 0 for what belongs to a commit), ttl_ms (0: as long as before)
-- Replies {'done'} | {'changed'}

local version = redis.call('HGET', keys.conversation, 'version') or ''
if version == args.version then -- sent again
  return {'done'}
end
if version ~= args.before then
  return {'changed'}
end
local failure = store_full(args.watermark)
if failure then
  return failure
end
if args.watermark == 0 then
  pass_memory_limit(keys.conversation)
end
redis.call('HSET', keys.conversation, 'version', args.version, 'body', args.body)
if args.ttl_ms > 0 then
  redis.call('PEXPIRE', keys.conversation, args.ttl_ms)
end
return {'done'}
