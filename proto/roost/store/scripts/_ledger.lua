-- The admission ledger. Put after _common.lua, before every script.

-- The ledger is one hash: members `worker|nonce` -> `tokens:expiry`, and beside them what they add up to, so that
-- nobody needs to read them all: `=worker` -> `tokens:count`, and '=' -> `fields:earliest`, the number of fields there
-- should be and a time before which no member runs out. The next script that writes computes the sums again from the
-- members when they do not fit, or when a member may have run out: so at the latest after one lease, whatever went
-- wrong.

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

-- Marks the sums as fitting, or removes the mark when there are no members.
local function seal_sums(key, earliest)
  local fields = redis.call('HLEN', key) + 1 - redis.call('HEXISTS', key, '=')
  if fields == 1 then
    redis.call('HDEL', key, '=')
  else
    redis.call('HSET', key, '=', text(fields) .. ':' .. text(math.min(earliest, 2 ^ 53)))
  end
end

-- Changes a worker's sums after a change of one member. Sums that did not fit before lose their mark instead.
local function add_up(key, worker, tokens, count, fit, earliest)
  if not fit then
    redis.call('HDEL', key, '=')
    return
  end
  local held, held_count = sums_of(key, worker)
  if held_count + count > 0 then
    redis.call('HSET', key, '=' .. worker, text(held + tokens) .. ':' .. text(held_count + count))
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

-- The ledger as it stands: the sums while they hold, else the members, without those whose time is over.
local function read_ledger(key, now, grace_ms)
  local fit, earliest = sums_hold(key)
  if fit and (earliest > now or grace_ms > 0) then
    return {key = key}
  end
  local ledger = {key = key, tokens = {}, held = {}, count = {}, over = {}, earliest = math.huge}
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    local worker = string.match(flat[i], '^([^=].*)|')
    local tokens, expiry = string.match(flat[i + 1], '^(%d+):(%d+)$')
    if worker and tokens and (tonumber(expiry) > now or grace_ms > 0) then
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

-- Whether `tokens` more fit at a worker: tokens up to its capacity, attempts up to twice what it runs at once. What
-- `member` holds already is not counted.
local function has_room(ledger, lease, worker, tokens, member)
  if lease.draining == true then
    return false
  end
  local mine = tokens_of(ledger, member)
  local held, count = held_at(ledger, worker)
  held, count = held - (mine or 0), count - (mine and 1 or 0)
  return held + tokens <= (tonumber(lease.capacity_tokens) or 0) and count < 2 * (tonumber(lease.max_running) or 0)
end
