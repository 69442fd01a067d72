-- The waiters and their lines, and what an attempt holds. Put after _working_set.lua, before every script.

-- As `unclaim`, and wakes those who wait for room at the worker.
local function give_back(pool, worker, nonce)
  if worker == '' or unclaim(pool.reservations, worker, nonce) == 0 then
    return
  end
  wake_worker(pool, worker)
end

-- The waiters are a hash, nonce -> `class:enqueued:deadline:expiry:line|rank`, and their lines a sorted set of members
-- `line|rank|nonce`, all of score 0. A line is the revision that its steps need, '' for steps that any worker can
-- serve. `aging_ms` of waiting are worth one class, so rank = class * aging_ms + time of enqueueing, lower goes first,
-- and equal classes go first come first served. A member of the sorted set that the hash does not confirm counts for
-- nothing.

local WAITERS_MS = 3600000 -- both keys go when nobody has waited for so long

-- A line's name as members may hold it. Steps that are held at the gate have lines of their own.
local function line_of(revision, held)
  return (held and WORKING_SET.HELD or '') .. string.gsub(revision, '|', '/')
end

local function rank_of(class, aging_ms, enqueued)
  return string.format('%016.0f', 2 ^ 52 + class * aging_ms + enqueued)
end

-- An attempt's place among the waiters, or nil.
local function waiter_of(pool, nonce)
  local class, enqueued, deadline, expiry, line, rank = string.match(redis.call('HGET', pool.waiters, nonce) or '',
    '^(-?%d+):(%d+):(%d+):(%d+):(.*)|(%d+)$')
  if class then
    return {enqueued = tonumber(enqueued), deadline = tonumber(deadline), expiry = tonumber(expiry), line = line,
      member = line .. '|' .. rank .. '|' .. nonce}
  end
end

-- Whether a waiter's time is over.
local function is_over(waiter, now, grace_ms)
  return (waiter.deadline > 0 and waiter.deadline <= now) or (waiter.expiry <= now and grace_ms == 0)
end

local function page_of(pool, line, offset, count)
  return redis.call('ZRANGEBYLEX', pool.lines, '[' .. line .. '|', '(' .. line .. '}', 'LIMIT', offset, count)
end

-- The first of a line, other than the asking step's `own` places. Those before it that do not wait any more are added
-- to `over`.
local function first_of(pool, line, own, over, now, grace_ms)
  local offset, count = 0, 16
  repeat
    local page = page_of(pool, line, offset, count)
    for _, member in ipairs(page) do
      local nonce = string.match(member, '|(%x*)$')
      local waiter = waiter_of(pool, nonce)
      if not waiter or waiter.member ~= member or is_over(waiter, now, grace_ms) then
        table.insert(over, member)
      elseif not own[nonce] then
        return member
      end
    end
    offset = offset + count
  until #page < count
end

-- Whether a step waits that a worker of `revision` can serve and that goes before `rank` and `nonce`; `former` is the
-- asking step's place under an earlier nonce. A step that is held at the gate goes after all that wait for room, and
-- keeps none of these from it.
local function must_wait(pool, revision, held, rank, nonce, former, over, now, grace_ms)
  local own = {[nonce] = true, [former] = true}
  for _, needed in ipairs(revision == '' and {''} or {revision, ''}) do
    local first = first_of(pool, line_of(needed), own, over, now, grace_ms)
    local place = first and string.sub(first, #line_of(needed) + 2)
    if first and (held or place < rank .. '|' .. nonce) then
      return true
    end
    local held_first = held and first_of(pool, line_of(needed, true), own, over, now, grace_ms)
    if held_first and string.sub(held_first, #line_of(needed, true) + 2) < rank .. '|' .. nonce then
      return true
    end
  end
  return false
end

-- Adds to `over` those at the head of every line that do not wait any more, since nobody asks for a line whose revision
-- is gone. A step that enters a line does this, so that the waiters of gateways that died do not add up.
local function find_over(pool, over, now, grace_ms)
  local from, first = '-', nil
  repeat
    first = redis.call('ZRANGEBYLEX', pool.lines, from, '+', 'LIMIT', 0, 1)[1]
    if first then
      local line = string.match(first, '^(.*)|%d+|%x*$')
      first_of(pool, line, {}, over, now, grace_ms)
      from = '(' .. line .. '}'
    end
  until not first
end

-- Removes the members that `first_of` passed over.
local function purge_waiters(pool, over)
  for _, member in ipairs(over) do
    local nonce = string.match(member, '|(%x*)$')
    local waiter = waiter_of(pool, nonce)
    if waiter and waiter.member == member then
      redis.call('HDEL', pool.waiters, nonce)
    end
    redis.call('ZREM', pool.lines, member)
  end
end

local function keep_waiters(pool)
  redis.call('PEXPIRE', pool.waiters, WAITERS_MS)
  redis.call('PEXPIRE', pool.lines, WAITERS_MS)
end

-- Gives a step a place in a line, and only there.
local function enter_line(pool, line, nonce, class, aging_ms, enqueued, deadline, expiry)
  local before = waiter_of(pool, nonce)
  local place = line .. '|' .. rank_of(class, aging_ms, enqueued)
  if before and before.member ~= place .. '|' .. nonce then
    redis.call('ZREM', pool.lines, before.member)
  end
  local waiter = {text(class), text(enqueued), text(deadline), expiry, place}
  redis.call('HSET', pool.waiters, nonce, table.concat(waiter, ':'))
  redis.call('ZADD', pool.lines, 0, place .. '|' .. nonce)
  keep_waiters(pool)
end

-- Gives a step's place up, and wakes those behind it when it was the first.
local function leave_line(pool, nonce)
  local waiter = waiter_of(pool, nonce)
  if redis.call('HDEL', pool.waiters, nonce) == 0 then
    return
  end
  if not waiter then -- another version of Roost wrote it
    wake(pool, {})
    return
  end
  local first = page_of(pool, waiter.line, 0, 1)[1]
  redis.call('ZREM', pool.lines, waiter.member)
  if first == waiter.member then
    wake(pool, {line = waiter.line})
  end
end

-- Gives back the tokens and the place among the waiters of the live attempt.
local function drop_claims(pool, d)
  leave_line(pool, d['attempt:nonce'])
  give_back(pool, d['attempt:worker'], d['attempt:nonce'])
end

-- Ends the live attempt, if there is one.
local function end_attempt(pool, session, d)
  if d.live then
    drop_claims(pool, d)
    redis.call('HDEL', session.descriptor, 'attempt:nonce', 'attempt:step', 'attempt:digest', 'attempt:seed',
      'attempt:worker', 'attempt:tokens', 'attempt:expiry', 'attempt:fenced', 'attempt:migrated', 'attempt:grace')
  end
end
