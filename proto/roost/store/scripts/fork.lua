-- Branches a session off another one. The two share the log up to there.
-- KEYS session, log, ids, tenant_sessions; the other session's, and the session that the request opened, if the request
--   has an id
-- ARGV session_id, tenant, other (name), task ('' for the other's), labels, hash (after `steps`), erased (see open.lua),
--   base
-- NUMBERS generations, watermark, request_ms (see open.lua), most_shared (parts of a base), generation (0: all of the
--   other's log), steps, length (of the other's log that are shared)
-- Replies {'done', now, descriptor} | {'exists', session name}

local NOT_GIVEN = {system = true, tools = true, former = true, request = true,
  folds = true, folded = true, moved = true} -- the first two are the family's
local ITS_OWN = {['attempt:'] = true, ['hold:'] = true, ['spent:'] = true, ['more:'] = true}

local now, other, after = now_ms(), session_keys(named_keys + 1, args.generations, args.base)
local opened_by_request, name = KEYS[after], string.match(keys.session, '%w+$')
local root = other.root or {descriptor = other.descriptor, family = other.family}
local fork = {descriptor = keys.session, root = root}
local state = redis.call('HGET', keys.session, 'state')
if state == 'deleted' then
  return refuse('not_found')
end
if state then -- sent again: names are never used twice
  return {'done', now, describe(fork)}
end
if opened_by_request then
  local opened = redis.call('GET', opened_by_request)
  if opened and opened ~= args.erased then
    return {'exists', opened}
  end
end
local d, failure = read_session(other, args.tenant)
failure = failure or wrong_log(other, d, '', '', 0) or store_full(args.watermark)
if failure then
  return failure
end
local steps, length, hash = d.steps, d.length, d.hash
if args.generation > 0 then
  steps, length, hash = args.steps, args.length, args.hash
  if args.generation ~= d.generation then -- it has migrated just now
    return refuse('head_mismatch', 0, d)
  elseif steps > d.steps or length > d.length or (steps == d.steps and hash ~= d.hash) then
    return refuse('rolled_back', 0, d)
  end
end

-- What is shared. A fork of forks shares parts of many logs. When there are too many, it gets a copy of the last of
-- them, from one on that is at most twice as long as all after it: so a long part is not copied for each short one.
local parts, last_step, last_token = {}, 0, 0
for _, part in ipairs(parts_of(other, d.generation, d.steps, d.length)) do
  part.steps, part.length = math.min(part.steps, steps - last_step), math.min(part.length, length - last_token)
  last_step, last_token = last_step + part.steps, last_token + part.length
  if part.steps > 0 then
    table.insert(parts, part)
  end
end
if #parts > args.most_shared then
  local from, behind = #parts, 0
  for i = #parts, 1, -1 do
    if parts[i].length <= 2 * behind then
      from = i
      break
    end
    behind = behind + parts[i].length
  end
  for i = from, #parts do
    local part = parts[i]
    for first = 0, part.steps - 1, 1000 do
      local entries = redis.call('LRANGE', part.log, first, math.min(first + 999, part.steps - 1))
      redis.call('RPUSH', keys.log, unpack(entries))
    end
    redis.call('APPEND', keys.ids, redis.call('GETRANGE', part.ids, 0, 4 * part.length - 1))
    parts[i] = nil
  end
end
local base = string.match(d.base, '^%w+') or other.name
last_step, last_token = 0, 0
for _, part in ipairs(parts) do
  last_step, last_token = last_step + part.steps, last_token + part.length
  base = base .. '|' .. text(part.generation) .. ':' .. text(last_step) .. ':' .. text(last_token) .. ':' .. part.name
end

-- All that the other session was opened with, whatever a newer gateway has added to that, and a course of its own.
local fields, flat = {}, redis.call('HGETALL', other.descriptor)
for i = 1, #flat, 2 do
  if not NOT_GIVEN[flat[i]] and not ITS_OWN[string.match(flat[i], '^%w+:')] then
    fields[flat[i]] = flat[i + 1]
  end
end
if (fields.date or '') == '' then -- its date is that of the session of an older gateway
  fields.opened = fields.opened or fields.created
end
if not holds_thinking(other, {steps = steps}) then -- the step that does is not shared
  fields.thinking = ''
end
local at, has_kv = d.ttl > 0 and now + d.ttl or NEVER, steps > 0 and d.owner ~= ''
fields.kv = has_kv and (d.kv ~= '' and d.kv or text(d.updated) .. ':' .. args.other) or nil
for field, value in pairs({task = args.task ~= '' and args.task or fields.task, labels = args.labels, state = 'active',
  epoch = 0, generation = 1, steps = text(steps), inherited = text(steps), length = text(length), hash = hash,
  base = base, forked = text(d.generation) .. ':' .. text(length) .. ':' .. hash .. ':' .. args.other,
  prompt = 0, output = 0, cached = 0, reconstructed = 0, owner = steps > 0 and d.owner or '',
  created = text(now), updated = text(now), expires = text(d.ttl > 0 and at or 0)}) do
  fields[field] = value
end
local given = {}
for field, value in pairs(fields) do
  table.insert(given, field)
  table.insert(given, value)
end
redis.call('HSET', keys.session, unpack(given))
for _, key in ipairs({keys.session, keys.log, keys.ids}) do
  keep(key, at)
end
for _, part in ipairs(parts) do
  share(part, name, at, now)
end
join(root, name, at, now)
redis.call('ZADD', keys.tenant_sessions, 0, args.session_id)
if opened_by_request then
  redis.call('SET', opened_by_request, args.session_id, 'PX', args.request_ms)
end
return {'done', now, describe(fork)}
