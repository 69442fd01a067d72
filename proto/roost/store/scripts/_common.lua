-- Put before every script when it is loaded.
--
-- The head of a script names its KEYS and ARGV; NUMBERS are ARGV too and follow them. `roost.store.scripts` passes them
-- in that order, and puts two tables before the script's body: `keys` and `args`, with NUMBERS as numbers. What has no
-- name follows: KEYS after the first `named_keys`, ARGV after the first `named_args`.
--
-- The functions here take the keys that they use, so that a script may touch two sessions:
--   `session`  what `session_keys` makes (_logs.lua)
--   `pool`     the `keys` of a script that names reservations, waiters, lines and wake (a channel, not a key)
--
-- A session's script replies {'again', generations, base, ''} when KEYS do not hold the session's keys as they are,
-- {'refused', why, retry ms, length ('' without a session), hash, detail}, or its own answer. It checks everything
-- before its first write. Times are ms of Redis TIME; nonces, digests and log hashes are hex.

local READ_FIELDS = {'state', 'tenant', 'hash', 'revision', 'owner', 'former', 'base', 'kv', 'attempt:nonce',
  'attempt:step', 'attempt:digest', 'attempt:seed', 'attempt:worker', 'attempt:service', 'generation', 'length',
  'steps', 'inherited', 'epoch', 'ttl', 'expires', 'prompt', 'output', 'updated', 'attempt:tokens', 'attempt:expiry',
  'attempt:migrated'}
local FIRST_NUMBER = 15 -- of READ_FIELDS: texts come first

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A whole number as text; Lua's own way would write large ones with an exponent.
local function text(number)
  return string.format('%.0f', number)
end

local function refuse(why, retry_ms, d, detail)
  return {'refused', why, retry_ms or 0, d and d.length or '', d and d.hash or '', detail or ''}
end

-- Below the hard memory limit Redis refuses a script's first write if that may grow memory. This first write does not,
-- so that steps already admitted can always commit, renew and end.
local function pass_memory_limit(key)
  redis.call('HDEL', key, '')
end

-- The fields of a descriptor, or nil when there is no such session. What forks need of it may outlive the session.
local function read_fields(descriptor)
  local values = redis.call('HMGET', descriptor, unpack(READ_FIELDS))
  if not values[1] or values[1] == 'deleted' then
    return nil
  end
  local d = {}
  for i = 1, FIRST_NUMBER - 1 do
    d[READ_FIELDS[i]] = values[i] or ''
  end
  for i = FIRST_NUMBER, #READ_FIELDS do
    d[READ_FIELDS[i]] = tonumber(values[i]) or 0
  end
  if d.expires > 0 and d.expires <= now_ms() then
    return nil
  end
  d.live = d['attempt:nonce'] ~= ''
  return d
end

-- Whether a head lies before (-1), at (0) or after (1) another head of the same log.
local function compare_heads(length, hash, other_length, other_hash)
  if length == other_length and hash == other_hash then
    return 0
  end
  return length < other_length and -1 or 1
end

-- What to reply when the caller's head is not the log's; nil when it is, or when the caller expects none (length '').
-- `generation` is 0 when the caller does not know it. The last head of the former generation is as good as the head
-- that migration made of it.
local function wrong_head(d, length, hash, generation)
  if length == '' then
    return nil
  end
  length = tonumber(length)
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

-- Whether the log's tokens hold thinking of a step. Where this is not noted they may.
local function holds_thinking(session, d)
  local from = redis.call('HGET', session.descriptor, 'thinking') or '0'
  return from ~= '' and tonumber(from) < d.steps
end

-- Milliseconds for which the live attempt keeps others out, or nil.
local function busy_ms(d, now, grace_ms)
  local left = d['attempt:expiry'] - now
  if d.live and (left > 0 or grace_ms > 0) then
    return math.max(left, grace_ms)
  end
end

-- Nonce and epoch of a session's last hold, eviction or deletion: a request with this nonce has been done before.
local function last_request(session)
  local request = redis.call('HGET', session.descriptor, 'request') or ''
  local nonce, epoch = string.match(request, '^(%x+):(%d+)$')
  return nonce, tonumber(epoch)
end

-- Publishes to all gateways what happened: {worker, tokens, attempts} when something was released at a worker, with
-- what is reserved there now if that is known; {line} when the first of a line has left it; {} when it may concern
-- anybody.
local function wake(pool, news)
  redis.call('PUBLISH', pool.wake, cjson.encode(news))
end

local function is_alive(workers, worker, now, grace_ms)
  local expiry = redis.call('ZSCORE', workers, worker)
  return expiry and (tonumber(expiry) > now or grace_ms > 0)
end

-- A worker's lease document; {} when there is none, or it cannot be read.
local function read_lease(key)
  local good, lease = pcall(cjson.decode, redis.call('GET', key) or '')
  return good and type(lease) == 'table' and lease or {}
end

local function revision_of(lease)
  return type(lease.model_revision) == 'string' and lease.model_revision or ''
end

-- Tokens of a session's log that are cached at a worker, by the residency that it publishes: on its device, and behind
-- those in host memory (`warm_field` of residency.py); 0 when it has dropped them. A worker that has not published since
-- the session was last changed cannot have said so yet, and is taken to have them all on its device. `delay_ms` before a
-- lease's end is the earliest time at which what was published with it was gathered.
-- A fork that has no step of its own has cached what the session has that it was branched off (`kv`).
local function cached_at(workers, worker, residency, session_id, d, now, delay_ms)
  local expiry = tonumber(redis.call('ZSCORE', workers, worker)) or 0
  local since, name = string.match(d.kv, '^(%d+):(.*)$')
  if expiry <= now or expiry - delay_ms < tonumber(since or d.updated) then
    return d.length, 0
  end
  name = name or session_id
  local published, most = redis.call('HMGET', residency, name, name .. ':warm'), since and d.length or math.huge
  local cached = math.min(tonumber(published[1]) or 0, most)
  return cached, math.min(tonumber(published[2]) or 0, most - cached)
end

-- What to reply when Redis is too full for a new session; nil while it is not. `watermark` 0: never.
local function store_full(watermark)
  if watermark <= 0 then
    return nil
  end
  local info = redis.pcall('INFO', 'memory') -- an error, where INFO is forbidden, is a table
  local used = type(info) == 'string' and string.match(info, 'used_memory:(%d+)')
  local most = type(info) == 'string' and string.match(info, 'maxmemory:(%d+)')
  if used and most and tonumber(most) > 0 and tonumber(used) > watermark * tonumber(most) then
    return refuse('store_full', 0, nil, 'Redis uses ' .. used .. ' of ' .. most ..
      ' bytes; raise maxmemory, or delete sessions')
  end
end
