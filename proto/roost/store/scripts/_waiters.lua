-- The waiters and their lines, and what an attempt holds. Put after _working_set.lua, before every script.

-- As `unclaim`, and wakes those who wait for room at the worker.
local function give_back(pool, worker, nonce)
  if worker == '' or unclaim(pool.reservations, worker, nonce) == 0 then
    return
  end
  wake_worker(pool, worker)
end

-- The waiters are a hash, nonce -> `class:enqueued:deadline:expiry:line|rank|tenant`, and their lines a sorted set of
-- members `line|rank|nonce`, all of score 0. A line is the revision that its steps need, '' for steps that any worker
-- can serve. `aging_ms` of waiting are worth one class: rank = class * aging_ms + time of enqueueing, and a step's
-- level is its class less the whole classes that it has waited for (`aged_class` of rules.py). The lowest level goes
-- first; of one level, whose members follow one another by rank, the tenant with the least counter, then the lowest
-- rank. A member of the sorted set that the hash does not confirm counts for nothing.

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
  local class, enqueued, deadline, expiry, line, rank, tenant =
    string.match(redis.call('HGET', pool.waiters, nonce) or '', '^(-?%d+):(%d+):(%d+):(%d+):([^|]*)|(%d+)|(.*)$')
  if class then
    return {class = tonumber(class), enqueued = tonumber(enqueued), deadline = tonumber(deadline),
      expiry = tonumber(expiry), line = line, rank = rank .. '|' .. nonce, tenant = tenant,
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

local function level_of(class, aging_ms, enqueued, now)
  return math.min(class, math.max(0, class - math.floor((now - enqueued) / aging_ms)))
end

-- An asking step's place: what orders it.
local function place_of(class, aging_ms, enqueued, nonce, counter, now)
  return {level = level_of(class, aging_ms, enqueued, now), counter = counter,
    rank = rank_of(class, aging_ms, enqueued) .. '|' .. nonce}
end

local function goes_before(place, other)
  if place.level ~= other.level then
    return place.level < other.level
  elseif place.counter ~= other.counter then
    return place.counter < other.counter
  end
  return place.rank < other.rank
end

-- Calls `visit` with each of a line that waits, by rank, other than the asking step's `own` places, until it returns
-- true. Those before that do not wait any more are added to `over`.
local function visit_line(pool, line, own, over, now, grace_ms, visit)
  local offset, count = 0, 16
  repeat
    local page = page_of(pool, line, offset, count)
    for _, member in ipairs(page) do
      local nonce = string.match(member, '|(%x*)$')
      local waiter = waiter_of(pool, nonce)
      if not waiter or waiter.member ~= member or is_over(waiter, now, grace_ms) then
        table.insert(over, member)
      elseif not own[nonce] and visit(waiter) then
        return
      end
    end
    offset = offset + count
  until #page < count
end

-- The place of the first of a line, as `visit_line` finds it, or nil.
local function first_of(pool, line, own, over, aging_ms, now, grace_ms)
  local first, compared, counters = nil, 0, {}
  visit_line(pool, line, own, over, now, grace_ms, function(waiter)
    counters[waiter.tenant] = counters[waiter.tenant] or stored_service(pool, waiter.tenant).counter
    local place = {level = level_of(waiter.class, aging_ms, waiter.enqueued, now), counter = counters[waiter.tenant],
      rank = waiter.rank}
    if first and place.level > first.level then
      return true
    end
    if not first or goes_before(place, first) then
      first = place
    end
    compared = compared + 1
    return compared == SERVICE.MOST_COMPARED
  end)
  return first
end

-- Whether a step waits that a worker of `revision` can serve and that goes before `place`, other than the asking step's
-- `own` ones, by nonce. A step that is held at the gate goes after all that wait for room, and keeps none of these from
-- it.
local function must_wait(pool, revision, held, place, own, over, aging_ms, now, grace_ms)
  for _, needed in ipairs(revision == '' and {''} or {revision, ''}) do
    local first = first_of(pool, line_of(needed), own, over, aging_ms, now, grace_ms)
    if first and (held or goes_before(first, place)) then
      return true
    end
    local held_first = held and first_of(pool, line_of(needed, true), own, over, aging_ms, now, grace_ms)
    if held_first and goes_before(held_first, place) then
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
      visit_line(pool, line, {}, over, now, grace_ms, function() return true end)
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
local function enter_line(pool, line, nonce, tenant, class, aging_ms, enqueued, deadline, expiry)
  local before = waiter_of(pool, nonce)
  local place = line .. '|' .. rank_of(class, aging_ms, enqueued)
  if before and before.member ~= place .. '|' .. nonce then
    redis.call('ZREM', pool.lines, before.member)
  end
  local waiter = {text(class), text(enqueued), text(deadline), expiry, place .. '|' .. tenant}
  redis.call('HSET', pool.waiters, nonce, table.concat(waiter, ':'))
  redis.call('ZADD', pool.lines, 0, place .. '|' .. nonce)
  keep_waiters(pool)
end

-- Whether a waiter may be the first of its line: its tenant has had less than those of all before it by rank. Levels are
-- not looked at, so that some are woken for nothing.
local function may_be_first(pool, waiter)
  local counter, before = stored_service(pool, waiter.tenant).counter, false
  for _, member in ipairs(page_of(pool, waiter.line, 0, SERVICE.MOST_COMPARED)) do
    if member == waiter.member then
      return not before
    end
    local other = waiter_of(pool, string.match(member, '|(%x*)$'))
    before = before or (other and stored_service(pool, other.tenant).counter <= counter)
  end
  return false
end

-- Gives a step's place up, and wakes those behind it when it was the first.
local function leave_line(pool, nonce)
  local waiter = waiter_of(pool, nonce)
  if not waiter then
    if redis.call('HDEL', pool.waiters, nonce) > 0 then -- another version of Roost wrote it
      wake(pool, {})
    end
    return
  end
  local was_first = may_be_first(pool, waiter)
  redis.call('HDEL', pool.waiters, nonce)
  redis.call('ZREM', pool.lines, waiter.member)
  if was_first then
    wake(pool, {line = waiter.line})
  end
end

-- Gives back the tokens and the place among the waiters of the live attempt.
local function drop_claims(pool, d)
  leave_line(pool, d['attempt:nonce'])
  give_back(pool, d['attempt:worker'], d['attempt:nonce'])
end

-- Ends the live attempt, if there is one. `done` as for `end_service`.
local function end_attempt(pool, session, d, now, done)
  if d.live then
    drop_claims(pool, d)
    end_service(pool, d, done, now)
    redis.call('HDEL', session.descriptor, 'attempt:nonce', 'attempt:step', 'attempt:digest', 'attempt:seed',
      'attempt:worker', 'attempt:tokens', 'attempt:expiry', 'attempt:fenced', 'attempt:migrated', 'attempt:grace',
      'attempt:service')
  end
end
