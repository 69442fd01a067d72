-- Put before every script when it is loaded.
--
-- Scripts about one session share the head of their arguments:
--   KEYS 1 reservations, 2 waiters, 3 descriptor, 4 steps, then log and ids of each generation, oldest first
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

local function wake()
  redis.call('PUBLISH', ARGV[3], '')
end

-- The ledger is one hash: members `worker|nonce` -> `tokens:expiry`, and beside them what they add up to, so that nobody
-- need read them all: `=worker` -> `tokens:count`, and '=' -> `fields:earliest`, the number of fields there should be and
-- a time before which no member runs out. Sums that do not fit, or that time may have made wrong, are made anew from
-- the members: by whoever writes next, so at the latest after one lease, whatever went wrong.

-- Whether the sums fit, and until when they hold.
local function sums_hold(key)
  local fields, earliest = string.match(redis.call('HGET', key, '=') or '', '^(%d+):(%d+)$')
  local length = redis.call('HLEN', key)
  if not fields then
    return length == 0, math.huge
  end
  return tonumber(fields) == length, tonumber(earliest)
end

local function sums_of(key, worker)
  local held, count = string.match(redis.call('HGET', key, '=' .. worker) or '', '^(%d+):(%d+)$')
  return tonumber(held) or 0, tonumber(count) or 0
end

-- Says of sums that fit that they do; without members there are none.
local function seal_sums(key, earliest)
  local fields = redis.call('HLEN', key) + 1 - redis.call('HEXISTS', key, '=')
  if fields == 1 then
    redis.call('HDEL', key, '=')
  else
    redis.call('HSET', key, '=', text(fields) .. ':' .. text(math.min(earliest, 2 ^ 53)))
  end
end

-- Changes a worker's sums after one of its members; sums that did not fit before are left for others to make anew.
local function add_up(key, worker, tokens, count, fit, earliest)
  if not fit then
    redis.call('HDEL', key, '=')
    return
  end
  local its_tokens, its_count = sums_of(key, worker)
  if its_count + count > 0 then
    redis.call('HSET', key, '=' .. worker, text(its_tokens + tokens) .. ':' .. text(its_count + count))
  else
    redis.call('HDEL', key, '=' .. worker)
  end
  seal_sums(key, earliest)
end

local function claimed_tokens(key, member)
  return tonumber(string.match(redis.call('HGET', key, member) or '', '^(%d+):'))
end

-- Reserves tokens at a worker for an attempt, or renews that.
local function claim(key, worker, nonce, tokens, expiry)
  local member = worker .. '|' .. nonce
  local before = claimed_tokens(key, member)
  local fit, earliest = sums_hold(key)
  redis.call('HSET', key, member, text(tokens) .. ':' .. text(expiry))
  if before ~= tokens or expiry < earliest or not fit then
    add_up(key, worker, tokens - (before or 0), before and 0 or 1, fit, math.min(earliest, expiry))
  end
end

-- Gives a reservation back. Replies 1, or 0 when there was none.
local function unclaim(key, worker, nonce)
  local member = worker .. '|' .. nonce
  local before = claimed_tokens(key, member)
  local fit, earliest = sums_hold(key)
  if redis.call('HDEL', key, member) == 0 then
    return 0
  end
  add_up(key, worker, -(before or 0), -1, fit and before, earliest)
  return 1
end

-- Gives back the tokens and the place among the waiters of the live attempt.
local function drop_claims(d)
  local gone = redis.call('HDEL', KEYS[2], d['attempt:nonce'])
  if d['attempt:worker'] ~= '' then
    gone = gone + unclaim(KEYS[1], d['attempt:worker'], d['attempt:nonce'])
  end
  if gone > 0 then
    wake()
  end
end

-- Ends the live attempt, if there is one.
local function end_attempt(d)
  if d.live then
    drop_claims(d)
    redis.call('HDEL', KEYS[3], unpack(ATTEMPT_FIELDS))
  end
end

-- The ledger as it stands: by its sums while they hold, else by its members, less those whose time is over.
local function read_ledger(key, now, grace)
  local fit, earliest = sums_hold(key)
  if fit and (earliest > now or grace > 0) then
    return {key = key}
  end
  local ledger = {key = key, tokens = {}, held = {}, count = {}, over = {}, earliest = math.huge}
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    local worker = string.match(flat[i], '^([^=].*)|')
    local tokens, expiry = string.match(flat[i + 1], '^(%d+):(%d+)$')
    if worker and tokens and (tonumber(expiry) > now or grace > 0) then
      ledger.tokens[flat[i]] = tonumber(tokens)
      ledger.held[worker] = (ledger.held[worker] or 0) + tonumber(tokens)
      ledger.count[worker] = (ledger.count[worker] or 0) + 1
      ledger.earliest = math.min(ledger.earliest, tonumber(expiry))
    else
      table.insert(ledger.over, flat[i])
    end
  end
  return ledger
end

-- Tokens that a member holds; nil when it holds none.
local function tokens_of(ledger, member)
  if ledger.tokens then
    return ledger.tokens[member]
  end
  return claimed_tokens(ledger.key, member)
end

-- Tokens and attempts at a worker.
local function held_at(ledger, worker)
  if ledger.held then
    return ledger.held[worker] or 0, ledger.count[worker] or 0
  end
  return sums_of(ledger.key, worker)
end

local function purge(key, members)
  for first = 1, #members, 1000 do
    redis.call('HDEL', key, unpack(members, first, math.min(first + 999, #members)))
  end
end

-- Removes what is over, and writes the sums of a ledger that was read by its members. Before any other change of it.
local function settle(ledger)
  if ledger.over then
    purge(ledger.key, ledger.over)
    for worker, held in pairs(ledger.held) do
      redis.call('HSET', ledger.key, '=' .. worker, text(held) .. ':' .. text(ledger.count[worker]))
    end
    seal_sums(ledger.key, ledger.earliest)
  end
end

-- The waiters: when each was enqueued and its rank (lower goes first), and those whose time is over. `aging` ms of
-- waiting are worth one class, so rank = class * aging + time of enqueueing, and equal classes go first come first served.
local function read_waiters(key, now, grace, aging)
  local waiters = {enqueued = {}, rank = {}, over = {}}
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    local class, enqueued, deadline, expiry = string.match(flat[i + 1], '^(-?%d+):(%d+):(%d+):(%d+)$')
    local late = not class or (tonumber(deadline) > 0 and tonumber(deadline) <= now)
    if late or (tonumber(expiry) <= now and grace == 0) then
      table.insert(waiters.over, flat[i])
    else
      waiters.enqueued[flat[i]] = tonumber(enqueued)
      waiters.rank[flat[i]] = tonumber(class) * aging + tonumber(enqueued)
    end
  end
  return waiters
end

-- Whether somebody else waits who goes before `rank`; `nonce` and `former` are the asking step's own places.
local function must_wait(waiters, rank, nonce, former)
  for other, its in pairs(waiters.rank) do
    if other ~= nonce and other ~= former and (its < rank or (its == rank and other < nonce)) then
      return true
    end
  end
  return false
end

local function is_alive(key, worker, now, grace)
  local expiry = redis.call('ZSCORE', key, worker)
  return expiry and (tonumber(expiry) > now or grace > 0)
end

-- Whether `tokens` more fit at a worker: tokens up to its capacity, attempts up to twice what it runs at once. What
-- `member` holds already is not counted.
local function has_room(ledger, lease_key, worker, tokens, member)
  local document = redis.call('GET', lease_key)
  local good, lease = pcall(cjson.decode, document or '')
  if not good or type(lease) ~= 'table' or lease.draining == true then
    return false
  end
  local mine = tokens_of(ledger, member)
  local held, count = held_at(ledger, worker)
  held, count = held - (mine or 0), count - (mine and 1 or 0)
  return held + tokens <= (tonumber(lease.capacity_tokens) or 0) and count < 2 * (tonumber(lease.max_running) or 0)
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
