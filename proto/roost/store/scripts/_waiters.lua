-- The waiters and their lines, and what an attempt holds. Put after _ledger.lua, before every script.

-- As `unclaim`, and says so.
local function give_back(key, worker, nonce)
  if worker == '' or unclaim(key, worker, nonce) == 0 then
    return
  end
  local news = {worker = worker}
  if sums_hold(key) then
    news.tokens, news.attempts = sums_of(key, worker)
  end
  wake(news)
end

-- The waiters are a hash, nonce -> `class:enqueued:deadline:expiry:line|rank`, and their lines a sorted set of members
-- `line|rank|nonce`, all of score 0. A line is the revision that its steps need, '' for steps that any worker can serve.
-- `aging` ms of waiting are worth one class, so rank = class * aging + time of enqueueing, lower goes first, and equal
-- classes go first come first served. A member of the sorted set that the hash does not bear out is nobody's.

local WAITERS_MS = 3600000 -- both keys go when nobody has waited for so long

-- Lines' names as members may hold them.
local function line_of(revision)
  return (string.gsub(revision, '|', '/'))
end

local function rank_of(class, aging, enqueued)
  return string.format('%016.0f', 2 ^ 52 + class * aging + enqueued)
end

-- An attempt's place among the waiters, or nil.
local function waiter_of(nonce)
  local class, enqueued, deadline, expiry, line, rank = string.match(redis.call('HGET', KEYS[2], nonce) or '',
    '^(-?%d+):(%d+):(%d+):(%d+):(.*)|(%d+)$')
  if class then
    return {enqueued = tonumber(enqueued), deadline = tonumber(deadline), expiry = tonumber(expiry), line = line,
      member = line .. '|' .. rank .. '|' .. nonce}
  end
end

-- Whether a waiter's time is over.
local function is_over(waiter, now, grace)
  return (waiter.deadline > 0 and waiter.deadline <= now) or (waiter.expiry <= now and grace == 0)
end

local function page_of(line, offset, count)
  return redis.call('ZRANGEBYLEX', KEYS[#KEYS], '[' .. line .. '|', '(' .. line .. '}', 'LIMIT', offset, count)
end

-- The first of a line, other than the asking step's `own` places; those before it who do not wait any more go to `over`.
local function first_of(line, own, over, now, grace)
  local offset, count = 0, 16
  repeat
    local page = page_of(line, offset, count)
    for _, member in ipairs(page) do
      local nonce = string.match(member, '|(%x*)$')
      local waiter = waiter_of(nonce)
      if not waiter or waiter.member ~= member or is_over(waiter, now, grace) then
        table.insert(over, member)
      elseif not own[nonce] then
        return member
      end
    end
    offset = offset + count
  until #page < count
end

-- Whether somebody waits whom a worker of `revision` can serve and who goes before `rank` and `nonce`; `former` is the
-- asking step's place under an earlier nonce.
local function must_wait(revision, rank, nonce, former, over, now, grace)
  local own = {[nonce] = true, [former] = true}
  local lines = revision == '' and {''} or {line_of(revision), ''}
  for _, line in ipairs(lines) do
    local first = first_of(line, own, over, now, grace)
    if first and string.sub(first, #line + 2) < rank .. '|' .. nonce then
      return true
    end
  end
  return false
end

-- Removes the members that `first_of` passed over.
local function purge_waiters(over)
  for _, member in ipairs(over) do
    local nonce = string.match(member, '|(%x*)$')
    local waiter = waiter_of(nonce)
    if waiter and waiter.member == member then
      redis.call('HDEL', KEYS[2], nonce)
    end
    redis.call('ZREM', KEYS[#KEYS], member)
  end
end

local function keep_waiters()
  redis.call('PEXPIRE', KEYS[2], WAITERS_MS)
  redis.call('PEXPIRE', KEYS[#KEYS], WAITERS_MS)
end

-- Gives a step a place in a line, and only there.
local function enter_line(line, nonce, class, aging, enqueued, deadline, expiry)
  local before = waiter_of(nonce)
  local place = line .. '|' .. rank_of(class, aging, enqueued)
  if before and before.member ~= place .. '|' .. nonce then
    redis.call('ZREM', KEYS[#KEYS], before.member)
  end
  redis.call('HSET', KEYS[2], nonce, table.concat({text(class), text(enqueued), text(deadline), expiry, place}, ':'))
  redis.call('ZADD', KEYS[#KEYS], 0, place .. '|' .. nonce)
  keep_waiters()
end

-- Gives a step's place up. Those behind it hear of that when it was the first.
local function leave_line(nonce)
  local waiter = waiter_of(nonce)
  if redis.call('HDEL', KEYS[2], nonce) == 0 then
    return
  end
  if not waiter then -- another version of Roost wrote it
    wake({})
    return
  end
  local first = page_of(waiter.line, 0, 1)[1]
  redis.call('ZREM', KEYS[#KEYS], waiter.member)
  if first == waiter.member then
    wake({line = waiter.line})
  end
end

-- Gives back the tokens and the place among the waiters of the live attempt.
local function drop_claims(d)
  leave_line(d['attempt:nonce'])
  give_back(KEYS[1], d['attempt:worker'], d['attempt:nonce'])
end

-- Ends the live attempt, if there is one.
local function end_attempt(d)
  if d.live then
    drop_claims(d)
    redis.call('HDEL', KEYS[3], unpack(ATTEMPT_FIELDS))
  end
end
