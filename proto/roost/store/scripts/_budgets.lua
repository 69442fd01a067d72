-- What sessions, tasks, roles and tenants use, and their budgets. Put after _logs.lua, before every script.
--
-- An account is the fields `spent:*` and `more:*` of a hash: a session's descriptor, or a key of its own. `spent:` is
-- what was used: `tokens`, `gpu_us`, `steps`, and `since`, when the first step began; `grace`, the session's steps in
-- a row after a budget was used up; `window`, the number of the window that it counts, for roles and tenants. `more:` is
-- what was added to limits: `tokens`, `gpu_us`, `steps`, `wall_ms`; and `request`, which added last.
--
-- `rules` is what `BudgetRules.encode` makes (roost.store.budgets). Its budgets are {scope, field, limit, window in ms}.

local SPENT_FIELDS = {'tokens', 'gpu_us', 'steps'}
local MORE_FIELDS = {'tokens', 'gpu_us', 'steps', 'wall_ms'}
local ACCOUNT_FIELDS = {'spent:tokens', 'spent:gpu_us', 'spent:steps', 'spent:since', 'spent:grace', 'spent:window',
  'more:tokens', 'more:gpu_us', 'more:steps', 'more:wall_ms'}

-- An account as it stands: without use when its window is over.
local function read_account(key, window_ms, now)
  local values = redis.call('HMGET', key, unpack(ACCOUNT_FIELDS))
  local function number(place)
    return tonumber(values[place]) or 0
  end
  local account = {key = key, window_ms = window_ms, more = {}, window = 0}
  if window_ms > 0 then
    account.window = math.floor(now / window_ms)
    account.is_over = account.window ~= number(6)
    account.ends_in = window_ms - now % window_ms
  end
  for place, field in ipairs(SPENT_FIELDS) do
    account[field] = account.is_over and 0 or number(place)
  end
  for place, field in ipairs(MORE_FIELDS) do
    account.more[field] = number(6 + place)
  end
  account.since, account.grace = number(4), number(5)
  account.wall_ms = account.since > 0 and now - account.since or 0
  return account
end

-- The accounts that a step is counted in, by scope. `pool` is the `keys` of a script that names task_account,
-- role_account and tenant_account.
local function accounts_of(session, pool, rules, now)
  local accounts = {session = read_account(session.descriptor, 0, now)}
  if rules.task then
    accounts.task = read_account(pool.task_account, 0, now)
  end
  for _, budget in ipairs(rules.budgets) do
    local scope, window_ms = budget[1], budget[4]
    if window_ms > 0 and not accounts[scope] then
      accounts[scope] = read_account(pool[scope .. '_account'], window_ms, now)
    end
  end
  return accounts
end

-- Budgets of which at least `percent` is used, each as `scope:field:used:limit`; and of the first of them, in how many
-- ms its window ends, 0 if it has none.
local function used_budgets(accounts, rules, percent)
  local statuses, ends_in = {}, 0
  for _, budget in ipairs(rules.budgets) do
    local scope, field, limit = unpack(budget)
    local account = accounts[scope]
    limit = limit + account.more[field]
    if 100 * account[field] >= percent * limit then
      if #statuses == 0 then
        ends_in = account.ends_in or 0
      end
      table.insert(statuses, table.concat({scope, field, text(account[field]), text(limit)}, ':'))
    end
  end
  return statuses, ends_in
end

-- What to reply when a budget is used up and the session has no grace left, which is for sessions that have begun their
-- work. Else nil, and whether the step is a step of grace. A budget with a window comes back by itself, so that no
-- session pauses for it.
local function over_budget(accounts, rules, d)
  local statuses, ends_in = used_budgets(accounts, rules, 100)
  if #statuses == 0 then
    return nil, false
  end
  local own = accounts.session
  if own.steps == 0 or own.grace >= rules.grace then
    local word = rules.asks and ends_in == 0 and 'budget_paused' or 'budget_exceeded'
    return refuse(word, ends_in, d, statuses[1])
  end
  return nil, true
end

-- How long what a task has used is known.
local function keep_task(task, rules, now)
  keep(task.key, rules.task_ttl > 0 and now + rules.task_ttl or NEVER)
end

-- Notes when the first step began.
local function start_clocks(accounts, rules, now)
  redis.call('HSETNX', accounts.session.key, 'spent:since', text(now))
  if accounts.task then
    redis.call('HSETNX', accounts.task.key, 'spent:since', text(now))
    keep_task(accounts.task, rules, now)
  end
end

-- Counts what a step has used.
local function spend(accounts, rules, spending, is_grace, now)
  for _, account in pairs(accounts) do
    if account.is_over then
      redis.call('DEL', account.key)
      redis.call('HSET', account.key, 'spent:window', text(account.window))
    end
    for _, field in ipairs(SPENT_FIELDS) do
      account[field] = account[field] + spending[field]
      redis.call('HINCRBY', account.key, 'spent:' .. field, text(spending[field]))
    end
    if account.window_ms > 0 then
      keep(account.key, (account.window + 1) * account.window_ms)
    end
  end
  if accounts.task then
    keep_task(accounts.task, rules, now)
  end
  redis.call('HSET', accounts.session.key, 'spent:grace', is_grace and text(accounts.session.grace + 1) or '0')
end

-- Raises a session's limits by what it has used.
local function renew_budget(session, now)
  local account = read_account(session.descriptor, 0, now)
  for _, field in ipairs(MORE_FIELDS) do
    redis.call('HSET', session.descriptor, 'more:' .. field, text(account[field]))
  end
end
