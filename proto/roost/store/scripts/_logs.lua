-- A session's keys and logs, and how forks share logs. Put after _common.lua, before every script.
--
-- A fork's first generation begins with steps that lie in other sessions' logs, and its own log holds what follows. Its
-- descriptor's `base` says where they lie: `family|generation:steps:length:session|...`. `family` is the first session
-- of all that were branched off one another. Each part has the first steps and tokens of the own log of a generation of
-- that session, up to a place in the fork's log, in steps and tokens. A session that is not a fork has no base.
--
-- `forks` of a log: `steps:length:session` -> until when that fork needs so many of its steps and tokens. `family` of
-- the first session: each other one -> until when it needs what they were all opened with, which only the first one's
-- descriptor has. What is shared is erased with the last session that needs it (docs/contracts.md).

local NEVER = 2 ^ 53
local TOMBSTONE_MS = 60000 -- how long the name of an erased session answers a deletion that was sent again

-- A session's keys from KEYS[first] on, which hold `generations` logs and what `base` names, and the index of the key
-- after them.
local function session_keys(first, generations, base)
  local session = {descriptor = KEYS[first], steps = KEYS[first + 1], family = KEYS[first + 2], base = base,
    shared = {}, logs = {}, name = string.match(KEYS[first], '%w+$')}
  local key, steps, length = first + 3, 0, 0
  if base ~= '' then
    session.root, key = {descriptor = KEYS[key], family = KEYS[key + 1]}, key + 2
  end
  for generation, last_step, last_token, name in string.gmatch(base, '|(%d+):(%d+):(%d+):(%w+)') do
    table.insert(session.shared, {descriptor = KEYS[key], log = KEYS[key + 1], ids = KEYS[key + 2],
      forks = KEYS[key + 3], generation = tonumber(generation), name = name, steps = last_step - steps,
      length = last_token - length})
    key, steps, length = key + 4, tonumber(last_step), tonumber(last_token)
  end
  for generation = 1, generations do
    session.logs[generation] = {log = KEYS[key], ids = KEYS[key + 1], forks = KEYS[key + 2],
      before = generation == 1 and steps or 0, tokens_before = generation == 1 and length or 0}
    key = key + 3
  end
  return session, key
end

local function again(d, host)
  return {'again', d.generation, d.base, host or ''}
end

-- The descriptor's fields, or nil and what to reply. The tenant is not compared when it is nil.
local function read_session(session, tenant)
  local d = read_fields(session.descriptor)
  if not d or (tenant and d.tenant ~= tenant) then
    return nil, refuse('not_found')
  end
  if d.generation ~= #session.logs or d.base ~= session.base then
    return nil, again(d)
  end
  return d
end

-- The descriptor for the caller, with what the first session of a family alone has.
local function describe(session)
  local flat = redis.call('HGETALL', session.descriptor)
  if session.root then
    local system, tools = unpack(redis.call('HMGET', session.root.descriptor, 'system', 'tools'))
    for _, part in ipairs({'system', system or '', 'tools', tools or ''}) do
      table.insert(flat, part)
    end
  end
  return flat
end

-- Where a generation's steps lie, in order: in other sessions' logs, then in its own, which `steps` and `length` bound.
local function parts_of(session, generation, steps, length)
  local own, parts = session.logs[generation], {}
  if generation == 1 then
    parts = {unpack(session.shared)}
  end
  table.insert(parts, {descriptor = session.descriptor, log = own.log, ids = own.ids, forks = own.forks,
    generation = generation, name = session.name, steps = steps - own.before, length = length - own.tokens_before})
  return parts
end

-- Whether a session has all that is its own or shared; an evicting Redis may have dropped a key.
local function is_whole(session, d)
  local parts = parts_of(session, d.generation, d.steps, d.length)
  if session.root and redis.call('HEXISTS', session.root.descriptor, 'system') == 0 then
    return false
  end
  for i, part in ipairs(parts) do
    local steps, bytes = redis.call('LLEN', part.log), redis.call('STRLEN', part.ids)
    if steps < part.steps or bytes < 4 * part.length then
      return false
    end
    if i == #parts and (steps > part.steps or bytes > 4 * part.length) then
      return false
    end
  end
  return true
end

-- What to reply when the log is not whole, or is not at the caller's head.
local function wrong_log(session, d, length, hash, generation)
  if not is_whole(session, d) then
    return refuse('rolled_back', 0, d, 'log and descriptor disagree: Redis lost keys; set maxmemory-policy noeviction')
  end
  return wrong_head(d, length, hash, generation)
end

-- Sets when a key goes.
local function keep(key, at)
  if at < NEVER then
    redis.call('PEXPIREAT', key, text(at))
  else
    redis.call('PERSIST', key)
  end
end

-- Until when forks need what they share; 0 when none does. Forgets those that have expired.
local function needed_until(forks, now)
  local last = tonumber(redis.call('ZREVRANGE', forks, 0, 0, 'WITHSCORES')[2]) or 0
  if last > 0 then
    redis.call('ZREMRANGEBYSCORE', forks, '-inf', text(now))
    keep(forks, last)
  end
  return last > now and last or 0
end

-- Sets when a log goes whose session lives until `at`, 0 when that is gone: with the last session that needs it.
local function keep_log(log, at, now)
  local last = math.max(at, needed_until(log.forks, now))
  if last == 0 then
    redis.call('DEL', log.log, log.ids, log.forks)
  else
    keep(log.log, last)
    keep(log.ids, last)
  end
end

-- Sets when another session's log goes, of which this session shares a part.
local function keep_shared(part, now)
  local state, expires = unpack(redis.call('HMGET', part.descriptor, 'state', 'expires'))
  local at = tonumber(expires) or 0
  if not state or state == 'deleted' then
    at = 0
  elseif at == 0 then
    at = NEVER
  end
  keep_log(part, at, now)
end

local function member_of(part, name)
  return text(part.steps) .. ':' .. text(part.length) .. ':' .. name
end

-- Notes that a session needs a part of another one's log until `at`.
local function share(part, name, at, now)
  redis.call('ZADD', part.forks, text(at), member_of(part, name))
  keep_shared(part, now)
end

-- Sets when what a family was opened with goes: with its last session.
local function keep_root(root, now)
  local last = needed_until(root.family, now)
  local state, expires = unpack(redis.call('HMGET', root.descriptor, 'state', 'expires'))
  if state == 'deleted' then
    if last == 0 then
      redis.call('HDEL', root.descriptor, 'system', 'tools')
    end
    keep(root.descriptor, math.max(last, now + TOMBSTONE_MS))
  elseif state then
    keep(root.descriptor, math.max(last, expires == '0' and NEVER or tonumber(expires)))
  end
end

local function join(root, name, at, now)
  redis.call('ZADD', root.family, text(at), name)
  keep_root(root, now)
end

-- Sets when the session is erased unless something happens: `more` ms after its idle time.
local function touch(session, ttl, now, more)
  local at = ttl > 0 and now + ttl + more or NEVER
  keep(session.descriptor, math.max(at, needed_until(session.family, now)))
  keep(session.steps, at)
  redis.call('HSET', session.descriptor, 'expires', text(ttl > 0 and at or 0), 'ttl', text(ttl))
  for _, log in ipairs(session.logs) do
    keep_log(log, at, now)
  end
  for _, part in ipairs(session.shared) do
    share(part, session.name, at, now)
  end
  if session.root then
    join(session.root, session.name, at, now)
  end
end

-- Erases a session but for what forks need of it. `request` stays, so that a deletion sent again answers the same.
local function erase(session, request, now)
  local last = needed_until(session.family, now)
  local system, tools = unpack(redis.call('HMGET', session.descriptor, 'system', 'tools'))
  redis.call('DEL', session.descriptor, session.steps)
  redis.call('HSET', session.descriptor, 'state', 'deleted', 'request', request)
  if last > 0 then
    redis.call('HSET', session.descriptor, 'system', system, 'tools', tools)
  end
  keep(session.descriptor, math.max(last, now + TOMBSTONE_MS))
  if session.root then
    redis.call('ZREM', session.root.family, session.name)
    keep_root(session.root, now)
  end
  for _, part in ipairs(session.shared) do
    redis.call('ZREM', part.forks, member_of(part, session.name))
    keep_shared(part, now)
  end
  for _, log in ipairs(session.logs) do
    local steps, length = 0, 0
    if needed_until(log.forks, now) > 0 then
      for _, member in ipairs(redis.call('ZRANGE', log.forks, 0, -1)) do
        local some, tokens = string.match(member, '^(%d+):(%d+):')
        steps, length = math.max(steps, some), math.max(length, tokens)
      end
      redis.call('LTRIM', log.log, 0, steps - 1)
      redis.call('SET', log.ids, redis.call('GETRANGE', log.ids, 0, 4 * length - 1))
    end
    keep_log(log, 0, now)
  end
end
