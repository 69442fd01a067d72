-- Calls that are made again and again. Put after _budgets.lua, before every script.
--
-- `spent:calls` of an account (_budgets.lua) has a hash of the calls of each of the last steps that made some, one after
-- another; a session's begin with its turn. `spent:repeats` of a session is what its last step repeated:
-- `session:period:times`, `task:1:times`, or ''. The numbers here are those of `roost.store.repetition`.

local HASH_DIGITS, LONGEST_CYCLE, KEPT_OF_SESSION, KEPT_OF_TASK = 16, 8, 64, 256

-- The shortest cycle at the end that has come `threshold` times, as `session:period:times`, or nil.
local function cycle(hashes, threshold)
  for period = 1, LONGEST_CYCLE do
    local width = period * HASH_DIGITS
    local last, times, at = string.sub(hashes, -width), 1, #hashes - width
    while at >= width and string.sub(hashes, at - width + 1, at) == last do
      times, at = times + 1, at - width
    end
    if times >= threshold then
      return 'session:' .. period .. ':' .. times
    end
  end
end

local function occurrences(hashes, calls)
  local count = 0
  for at = 1, #hashes, HASH_DIGITS do
    if string.sub(hashes, at, at + HASH_DIGITS - 1) == calls then
      count = count + 1
    end
  end
  return count
end

-- Adds the calls of a step to those of an account, and returns them all.
local function add_calls(account, calls, before, kept)
  local hashes = string.sub(before .. calls, -kept * HASH_DIGITS)
  redis.call('HSET', account.key, 'spent:calls', hashes)
  return hashes
end

-- Notes the calls of a step, '' for none, and whether they repeat others. A step that opens a turn begins again.
local function note_calls(accounts, rules, calls, opens_turn)
  local own, task, repeats = accounts.session, accounts.task, nil
  if rules.repeats == 0 and rules.task_repeats == 0 then
    redis.call('HDEL', own.key, 'spent:calls', 'spent:repeats') -- the role may have had thresholds before
    return
  end
  local before = not opens_turn and redis.call('HGET', own.key, 'spent:calls') or ''
  local hashes = add_calls(own, calls, calls ~= '' and before or '', KEPT_OF_SESSION)
  if calls ~= '' and rules.repeats > 0 then
    repeats = cycle(hashes, rules.repeats)
  end
  if calls ~= '' and task and rules.task_repeats > 0 then
    local all = add_calls(task, calls, redis.call('HGET', task.key, 'spent:calls') or '', KEPT_OF_TASK)
    local times = occurrences(all, calls)
    if not repeats and times >= rules.task_repeats then
      repeats = 'task:1:' .. times
    end
  end
  redis.call('HSET', own.key, 'spent:repeats', repeats or '')
end

-- What the session's last step repeated; '' for nothing.
local function repeats_of(session)
  return redis.call('HGET', session.descriptor, 'spent:repeats') or ''
end
