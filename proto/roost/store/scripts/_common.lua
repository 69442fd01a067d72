-- Put before every script when it is loaded.
--
-- Scripts about one session share the head of their arguments:
--   KEYS 1 reservations, 2 waiters, 3 descriptor, 4 steps, then log and ids of each generation, oldest first;
--   the last of all KEYS: lines of waiters
--   ARGV 1 number of generations in KEYS, 2 grace in ms, 3 wake channel
-- A caller that does not know how many generations there are is told: {'again', generations, ''}.
-- Replies: {'refused', why, retry ms, length, hash, message} or the script's own. Everything is checked before the
-- first write. Times are ms of Redis TIME; nonces, digests and log hashes are hex.

local ATTEMPT_FIELDS = {'attempt:nonce', 'attempt:step', 'attempt:digest', 'attempt:seed', 'attempt:worker',
  'attempt:tokens', 'attempt:expiry', 'attempt:fenced', 'attempt:migrated'}
local HOLD_FIELDS = {'hold:tool', 'hold:expect', 'hold:begin'}
local READ_FIELDS = {'state', 'tenant', 'generation', 'length', 'hash', 'steps', 'epoch', 'revision', 'ttl', 'prompt',
  'output', 'owner', 'former', 'updated', unpack(ATTEMPT_FIELDS)}

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A whole number as text; Lua's own way would write large ones with an exponent.
local function text(number)
  return string.format('%.0f', number)
end

local function refuse(why, retry_ms, d, message)
  return {'refused', why, retry_ms or 0, d and d.length or 0, d and d.hash or '', message or ''}
end

-- Below the hard memory limit Redis refuses a script's first write if that may grow memory. This first write does not,
-- so that steps already admitted can always commit, renew and end.
local function pass_memory_limit()
  redis.call('HDEL', KEYS[1], '')
end

local function read_fields(key)
  local values = redis.call('HMGET', key, unpack(READ_FIELDS))
  if not values[1] or values[1] == 'deleted' then
    return nil
  end
  local d = {}
  for i, name in ipairs(READ_FIELDS) do
    d[name] = values[i] or ''
  end
  for _, name in ipairs({'generation', 'length', 'steps', 'epoch', 'ttl', 'prompt', 'output', 'updated',
    'attempt:tokens', 'attempt:expiry'}) do
    d[name] = tonumber(d[name]) or 0
  end
  d.live = d['attempt:nonce'] ~= ''
  return d
end

-- The descriptor's fields, or nil and what to reply. Without a tenant none is compared.
local function read_session(tenant)
  local d = read_fields(KEYS[3])
  if not d or (tenant and d.tenant ~= tenant) then
    return nil, refuse('not_found')
  end
  if d.generation ~= tonumber(ARGV[1]) then
    return nil, {'again', d.generation, ''}
  end
  d.log, d.ids = KEYS[3 + 2 * d.generation], KEYS[4 + 2 * d.generation]
  return d
end

-- Whether log, ids and descriptor agree; an evicting Redis may have dropped one of them.
local function is_whole(d)
  return redis.call('LLEN', d.log) == d.steps and redis.call('STRLEN', d.ids) == 4 * d.length
end

-- Whether a head lies before (-1), at (0) or after (1) another one of the same log.
local function compare_heads(length, hash, its_length, its_hash)
  if length == its_length and hash == its_hash then
    return 0
  end
  return length < its_length and -1 or 1
end

-- What to reply when the caller's head is not the log's; nil when it is, or when none is expected. Its generation may be
-- unknown ('' or 0). The last head of the generation before is as good as the one that migration made of it.
local function wrong_head(d, length, hash, generation)
  if length == '' then
    return nil
  end
  length, generation = tonumber(length), tonumber(generation) or 0
  local steps, former_length, former_hash = string.match(d.former, '^(%d+):(%d+):(%x*):')
  local at_former = steps and compare_heads(length, hash, tonumber(former_length), former_hash)
  local place
  if generation > d.generation then
    place = 1
  elseif generation == d.generation or (generation == 0 and at_former ~= 0) then
    place = compare_heads(length, hash, d.length, d.hash)
  elseif generation == 0 or generation == d.generation - 1 then
    place = at_former
    if place == 0 and tonumber(steps) < d.steps then
      place = -1
    end
  else
    place = -1
  end
  if place < 0 then
    return refuse('head_mismatch', 0, d)
  elseif place > 0 then
    return refuse('rolled_back', 0, d)
  end
end

-- What to reply when the log is not whole, or is not at the caller's head.
local function wrong_log(d, length, hash, generation)
  if not is_whole(d) then
    return refuse('rolled_back', 0, d, 'log and descriptor disagree: Redis lost keys; set maxmemory-policy noeviction')
  end
  return wrong_head(d, length, hash, generation)
end

local function busy_ms(d, now)
  local left, grace = d['attempt:expiry'] - now, tonumber(ARGV[2])
  if d.live and (left > 0 or grace > 0) then
    return math.max(left, grace)
  end
end

-- Sets when the session is erased unless something happens: `more` ms after its idle time. KEYS hold `generations` logs;
-- as many as the caller knew of when not given.
local function touch(ttl, now, more, generations)
  local at = ttl > 0 and now + ttl + more or 0
  for i = 3, 4 + 2 * (generations or tonumber(ARGV[1])) do
    if at > 0 then
      redis.call('PEXPIREAT', KEYS[i], text(at))
    else
      redis.call('PERSIST', KEYS[i])
    end
  end
  redis.call('HSET', KEYS[3], 'expires', text(at), 'ttl', text(ttl))
end

-- Nonce and epoch of the last hold, eviction or deletion: one that is sent again has been done before.
local function last_request(key)
  local nonce, epoch = string.match(redis.call('HGET', key, 'request') or '', '^(%x+):(%d+)$')
  return nonce, tonumber(epoch)
end

-- Says to all gateways what happened: {worker, tokens, attempts} when something was released at a worker, with what it
-- holds now where that is known; {line} when the first of a line has left it; {} when it may concern anybody.
local function wake(news)
  redis.call('PUBLISH', ARGV[3], cjson.encode(news))
end

local function is_alive(key, worker, now, grace)
  local expiry = redis.call('ZSCORE', key, worker)
  return expiry and (tonumber(expiry) > now or grace > 0)
end

-- A worker's lease document; {} when there is none that can be read.
local function read_lease(lease_key)
  local good, lease = pcall(cjson.decode, redis.call('GET', lease_key) or '')
  return good and type(lease) == 'table' and lease or {}
end

local function revision_of(lease)
  return type(lease.model_revision) == 'string' and lease.model_revision or ''
end

-- Tokens of a session's log that are cached at a worker, by the residency that it publishes; 0 when it has dropped them.
-- A worker that has not published since the session was last changed cannot have said so yet, and is taken to have them
-- all. `delay` ms before a lease's end is the earliest time at which what was published with it was gathered.
local function cached_at(workers_key, worker, residency_key, session, d, now, delay)
  local expiry = tonumber(redis.call('ZSCORE', workers_key, worker)) or 0
  if expiry <= now or expiry - delay < d.updated then
    return d.length
  end
  return tonumber(redis.call('HGET', residency_key, session)) or 0
end
