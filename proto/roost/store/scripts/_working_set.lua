-- The live sessions, what they need at their workers, and the gate. Put after _ledger.lua, before every script.
-- The rules and the constants (`WORKING_SET`) are those of `roost.store.working_set`.
--
--   live    session -> `prefix|tokens|family|tokens|own|promised|worker`
--   ends    session -> until when it is live
--   shares  `worker|group|tokens|session`, all of score 0: of what a group has, the most that a session needs counts
--   sums    `worker` -> `tokens:sessions`; '=' -> `sessions:shares`, how many there should be; '*' -> the target

local function live_at(pool, worker)
  local tokens, sessions = string.match(redis.call('HGET', pool.live_sums, worker) or '', '^(%d+):(%d+)$')
  return tonumber(tokens) or 0, tonumber(sessions) or 0
end

local function read_target(pool)
  local value, log, lost, since = string.match(redis.call('HGET', pool.live_sums, '*') or '',
    '^(%d+):(%d+):(%d+):(%d+)$')
  return tonumber(value) or WORKING_SET.START_TARGET, tonumber(log) or 0, tonumber(lost) or 0, tonumber(since) or 0
end

-- What a session needs that needs `tokens` altogether: a table with own (tokens), worker, and shares ({group, tokens}).
local function footprint(tokens, prefix, prefix_tokens, family, family_tokens)
  local first = prefix ~= '' and math.min(prefix_tokens, tokens) or 0
  local shared = family ~= '' and math.max(0, math.min(family_tokens, tokens) - first) or 0
  local needed = {prefix = first > 0 and prefix or '', prefix_tokens = first, family = shared > 0 and family or '',
    family_tokens = shared, own = tokens - first - shared, shares = {}}
  if first > 0 then
    table.insert(needed.shares, {group = 'p' .. prefix, tokens = first})
  end
  if shared > 0 then
    table.insert(needed.shares, {group = 'f' .. family, tokens = shared})
  end
  return needed
end

-- The footprint of the session of a descriptor. All of a log's first generation may be shared with those that are
-- branched off it; a fork shares up to where it was branched off.
local function footprint_of(descriptor, d, tokens, prefix, prefix_tokens)
  local family, shared = '', 0
  if d.generation == 1 and d.base ~= '' then
    family = string.match(d.base, '^%w+')
    shared = tonumber(string.match(redis.call('HGET', descriptor, 'forked') or '', '^%d+:(%d+):')) or 0
  elseif d.generation == 1 then
    family, shared = string.match(descriptor, '%w+$'), tokens
  end
  return footprint(tokens, prefix, prefix_tokens, family, shared)
end

-- A live session, or nil.
local function read_live(pool, name)
  local prefix, first, family, shared, own, promised, worker = string.match(redis.call('HGET', pool.live, name) or '',
    '^(%x*)|(%d+)|(%w*)|(%d+)|(%d+)|([01])|(.+)$')
  if not worker then
    return nil
  end
  local live = footprint(first + shared + own, prefix, tonumber(first), family, first + shared)
  live.worker, live.promised = worker, promised == '1'
  return live
end

local function most_shared(pool, worker, group)
  local place = worker .. '|' .. group
  local last = redis.call('ZREVRANGEBYLEX', pool.live_shares, '(' .. place .. '}', '[' .. place .. '|', 'LIMIT', 0, 1)[1]
  return last and tonumber(string.sub(last, #place + 2, #place + 13)) or 0
end

-- Adds what a session needs to its worker's sums (sessions 1), or takes it away (-1).
local function change_sums(pool, name, needed, sessions)
  local worker, change, shares = needed.worker, sessions * needed.own, 0
  for _, share in ipairs(needed.shares) do
    local before = most_shared(pool, worker, share.group)
    local member = worker .. '|' .. share.group .. '|' .. string.format('%012.0f', share.tokens) .. '|' .. name
    if sessions > 0 then
      shares = shares + redis.call('ZADD', pool.live_shares, 0, member)
      change = change + math.max(before, share.tokens) - before
    else
      shares = shares - redis.call('ZREM', pool.live_shares, member)
      if share.tokens == before then
        change = change + most_shared(pool, worker, share.group) - before
      end
    end
  end
  local tokens, count = live_at(pool, worker)
  if count + sessions > 0 then
    redis.call('HSET', pool.live_sums, worker, text(tokens + change) .. ':' .. text(count + sessions))
  else
    redis.call('HDEL', pool.live_sums, worker)
  end
  local all, all_shares = string.match(redis.call('HGET', pool.live_sums, '=') or '0:0', '^(%d+):(%d+)$')
  redis.call('HSET', pool.live_sums, '=', text(all + sessions) .. ':' .. text(all_shares + shares))
end

-- Takes a session out. Replies what it needed, or nil when it was not live.
local function remove_live(pool, name)
  local live = read_live(pool, name)
  redis.call('HDEL', pool.live, name)
  redis.call('ZREM', pool.live_ends, name)
  if live then
    change_sums(pool, name, live, -1)
  end
  return live
end

-- Makes a session live at a worker, or changes what it needs, where, and until when.
local function put_live(pool, name, worker, needed, end_ms, promised)
  needed.worker = worker
  local entry = table.concat({needed.prefix, text(needed.prefix_tokens), needed.family, text(needed.family_tokens),
    text(needed.own), promised and '1' or '0', worker}, '|')
  if redis.call('HGET', pool.live, name) ~= entry then
    remove_live(pool, name)
    redis.call('HSET', pool.live, name, entry)
    change_sums(pool, name, needed, 1)
  end
  redis.call('ZADD', pool.live_ends, text(end_ms), name)
end

-- Makes a session live where a step of it has reserved. `live` is what it was before; `again` says that the step had
-- reserved there already. KV is promised to a session that was live there before its step.
local function enter_working_set(pool, name, worker, needed, now, live, again)
  local promised = live and live.worker == worker and (live.promised or not again)
  put_live(pool, name, worker, needed, now + WORKING_SET.IDLE_MS, promised)
end

-- Lets a live session stay so for its idle time at least.
local function renew_live(pool, name, now)
  redis.call('ZADD', pool.live_ends, 'XX', 'GT', text(now + WORKING_SET.IDLE_MS), name)
end

local function live_sums_fit(pool)
  local sessions, shares = string.match(redis.call('HGET', pool.live_sums, '=') or '0:0', '^(%d+):(%d+)$')
  sessions = tonumber(sessions)
  return sessions == redis.call('HLEN', pool.live) and sessions == redis.call('ZCARD', pool.live_ends)
    and tonumber(shares) == redis.call('ZCARD', pool.live_shares)
end

-- Adds all up again, as when Redis has lost a key. What has no end, or no footprint, is not live.
local function add_up_live(pool)
  local ends, target = {}, redis.call('HGET', pool.live_sums, '*')
  local flat = redis.call('ZRANGE', pool.live_ends, 0, -1, 'WITHSCORES')
  for i = 1, #flat, 2 do
    ends[flat[i]] = flat[i + 1]
  end
  local entries = redis.call('HGETALL', pool.live)
  redis.call('DEL', pool.live, pool.live_ends, pool.live_shares, pool.live_sums)
  if target then
    redis.call('HSET', pool.live_sums, '*', target)
  end
  for i = 1, #entries, 2 do
    if ends[entries[i]] then
      redis.call('HSET', pool.live, entries[i], entries[i + 1])
      local live = read_live(pool, entries[i])
      if live then
        redis.call('ZADD', pool.live_ends, ends[entries[i]], entries[i])
        change_sums(pool, entries[i], live, 1)
      else
        redis.call('HDEL', pool.live, entries[i])
      end
    end
  end
end

-- Nothing is there in a pool without a gate.
local function mend_live(pool)
  local any = redis.call('EXISTS', pool.live, pool.live_ends, pool.live_shares, pool.live_sums) > 0
  if any and not live_sums_fit(pool) then
    add_up_live(pool)
  end
  return any
end

-- Takes out the sessions whose time is over. Before the gate is asked.
local function settle_live(pool, now, grace_ms)
  if not mend_live(pool) or grace_ms > 0 then
    return
  end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', pool.live_ends, '-inf', text(now), 'LIMIT', 0, 1000)) do
    remove_live(pool, name)
  end
end

local function live_limit(pool, capacity)
  return math.floor(read_target(pool) * capacity / WORKING_SET.WHOLE)
end

-- Whether the gate is open at a worker for a session that is not live there: it is to one of any size while no session
-- is live there.
local function admits(pool, worker, needed, capacity)
  local tokens, sessions = live_at(pool, worker)
  if sessions == 0 then
    return true
  end
  tokens = tokens + needed.own
  for _, share in ipairs(needed.shares) do
    tokens = tokens + math.max(0, share.tokens - most_shared(pool, worker, share.group))
  end
  return tokens <= live_limit(pool, capacity)
end

-- Whether so much of a log is lost that its session has to pass the gate again, however much others need.
local function is_mostly_lost(log, cached)
  return cached * WORKING_SET.KEPT_PART < log
end

-- Whether a live session has to pass the gate again, because too much of its log was evicted.
local function is_evicted(pool, worker, capacity, log, cached)
  local is_over = live_at(pool, worker) > live_limit(pool, capacity)
  return is_mostly_lost(log, cached) or (is_over and (log - cached) * WORKING_SET.LOST_PART > log)
end

-- Counts a live session that came back: how long its log was, and how much of that was lost.
local function observe(pool, log, lost, now, adapt_ms)
  local target, all, all_lost, since = read_target(pool)
  all, all_lost = all + log, all_lost + lost
  if all > 0 and now - since >= adapt_ms then
    local held = redis.call('ZRANGEBYLEX', pool.lines, '[' .. WORKING_SET.HELD, '(\127', 'LIMIT', 0, 1)[1]
    if all_lost * WORKING_SET.WHOLE > all * WORKING_SET.LOST_MUCH then
      target = math.max(WORKING_SET.LEAST_TARGET, math.floor(target * WORKING_SET.LOWERED_TO / WORKING_SET.WHOLE))
    elseif all_lost * WORKING_SET.WHOLE <= all * WORKING_SET.LOST_LITTLE and held then
      target = math.min(WORKING_SET.MOST_TARGET, target + WORKING_SET.RAISED_BY)
    end
    all, all_lost, since = 0, 0, now
  end
  redis.call('HSET', pool.live_sums, '*', table.concat({text(target), text(all), text(all_lost), text(since)}, ':'))
end

-- How long a session stays live that is held for so many seconds.
local function pause_ms(expect_seconds)
  if expect_seconds <= 0 then
    return WORKING_SET.IDLE_MS
  end
  return math.min(WORKING_SET.LONGEST_PAUSE_MS, math.max(WORKING_SET.SHORTEST_PAUSE_MS,
    math.floor(expect_seconds * 1000)))
end

-- What was released at a worker, for those who wait.
local function wake_worker(pool, worker)
  local news = {worker = worker, live = (live_at(pool, worker))}
  if sums_hold(pool.reservations) then
    news.tokens, news.attempts = sums_of(pool.reservations, worker)
  end
  wake(pool, news)
end

-- Takes a session out that has ended, or whose KV is dropped, and wakes those who wait.
local function leave_working_set(pool, name)
  local live = mend_live(pool) and remove_live(pool, name)
  if live then
    wake_worker(pool, live.worker)
  end
end

-- Lets a live session pause after an attempt that has not committed, or until `end_ms` if that is given: it needs its
-- log, where the owner is; it is not live anywhere else.
local function rest_live(pool, session_key, d, now, end_ms)
  local name = string.match(session_key, '%w+$')
  local live = mend_live(pool) and read_live(pool, name)
  if not live then
    return
  end
  if live.worker ~= d.owner or d.length == 0 then
    leave_working_set(pool, name)
    return
  end
  local before = tonumber(redis.call('ZSCORE', pool.live_ends, name))
  local needed = footprint_of(session_key, d, d.length, live.prefix, live.prefix_tokens)
  put_live(pool, name, d.owner, needed, end_ms or now + WORKING_SET.IDLE_MS, false)
  if end_ms and before and end_ms < before then
    wake_worker(pool, live.worker)
  end
end

-- Lets a live session need no more than its log, which was folded, where it is live.
local function shrink_live(pool, session, length, now)
  local live = mend_live(pool) and read_live(pool, session.name)
  if live then
    local needed = footprint_of(session.descriptor, read_fields(session.descriptor), length, live.prefix,
      live.prefix_tokens)
    put_live(pool, session.name, live.worker, needed, now + WORKING_SET.IDLE_MS, false)
  end
end
