-- Reads descriptors.
-- KEYS tenant_sessions; for each session its descriptor, and that of the first of its family
-- ARGV tenant; the sessions' names
-- Replies {now, for each a descriptor, {'again', generations, base} when its family is another, or '' without a
--   session}; names of sessions that are gone leave the tenant's set

local reply = {now_ms()}
for i = 1, #ARGV - named_args do
  local descriptor, first = KEYS[named_keys + 2 * i - 1], KEYS[named_keys + 2 * i]
  local d = read_fields(descriptor)
  local family = d and string.match(d.base, '^%w+')
  if not d then
    redis.call('ZREM', keys.tenant_sessions, ARGV[named_args + i])
  end
  if not d or d.tenant ~= args.tenant then
    table.insert(reply, '')
  elseif family and family ~= string.match(first, '%w+$') then
    table.insert(reply, again(d))
  else
    table.insert(reply, describe({descriptor = descriptor, root = family and {descriptor = first}}))
  end
end
return reply
