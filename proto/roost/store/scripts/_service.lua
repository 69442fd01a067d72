-- How much service each tenant has had; the rules are those of `roost.store.service`. Put after _ledger.lua, before
-- every script.
--   service          tenant -> `counter:outputs:waiting:until`; ':' (no tenant has one in its name) -> the clock
--   service_waiting  sorted set: tenant of which attempts wait -> its counter
--   service_resting  sorted set: any other tenant -> when it was changed last
-- Counters beyond 2^53 lose their last digits, which are less than any step's service.

local SERVICE_MS = 3600000 -- all is forgotten when nothing has changed for so long
local CLOCK = ':'

local function stored_service(pool, tenant)
  local counter, outputs, waiting, until_ms = string.match(redis.call('HGET', pool.service, tenant) or '',
    '^(%d+):(%d+):(%d+):(%d+)$')
  return {tenant = tenant, counter = tonumber(counter) or 0, outputs = tonumber(outputs) or 0,
    waiting = tonumber(waiting) or 0, until_ms = tonumber(until_ms) or 0}
end

-- A tenant as it stands. `save_service` after a change.
local function find_service(pool, tenant, now, grace_ms)
  local service = stored_service(pool, tenant)
  if service.until_ms <= now and grace_ms == 0 then
    service.waiting = 0
  end
  return service
end

-- Keeps a tenant after a change, and forgets others that are too many.
local function save_service(pool, service, now)
  local tenant = service.tenant
  redis.call('HSET', pool.service, tenant, table.concat({text(service.counter), text(service.outputs),
    text(service.waiting), text(service.until_ms)}, ':'))
  if service.waiting > 0 then
    redis.call('ZADD', pool.service_waiting, text(service.counter), tenant)
    redis.call('ZREM', pool.service_resting, tenant)
  else
    redis.call('ZREM', pool.service_waiting, tenant)
    redis.call('ZADD', pool.service_resting, text(now), tenant)
  end
  while redis.call('HLEN', pool.service) > SERVICE.MOST_TENANTS + redis.call('HEXISTS', pool.service, CLOCK) do
    local gone = redis.call('ZPOPMIN', pool.service_resting)[1]
    if not gone then
      break
    end
    redis.call('HDEL', pool.service, gone)
  end
  for _, key in ipairs({pool.service, pool.service_waiting, pool.service_resting}) do
    redis.call('PEXPIRE', key, SERVICE_MS)
  end
end

local function service_clock(pool)
  return tonumber(redis.call('HGET', pool.service, CLOCK) or '0')
end

-- The least counter of the tenants that wait; the clock when none does. Tenants whose gateways died rest from now on.
local function least_counter(pool, now, grace_ms)
  while true do
    local tenant = redis.call('ZRANGE', pool.service_waiting, 0, 0)[1]
    if not tenant then
      return service_clock(pool)
    end
    local service = find_service(pool, tenant, now, grace_ms)
    if service.waiting > 0 then
      return service.counter
    end
    pass_memory_limit(pool.service)
    save_service(pool, service, now)
  end
end

-- The same as `find_service` for a tenant of which a step begins to wait or reserves: lifted if none waits.
local function join_service(pool, tenant, now, grace_ms)
  local service = find_service(pool, tenant, now, grace_ms)
  if service.waiting == 0 then
    service.counter = math.max(service.counter, least_counter(pool, now, grace_ms))
  end
  return service
end

local function start_waiting(service, until_ms)
  service.waiting = service.waiting + 1
  service.until_ms = math.max(service.until_ms, until_ms)
end

local function stop_waiting(service)
  service.waiting = math.max(0, service.waiting - 1)
end

local function weighted_service(context, output, weight)
  return math.floor((context * output + math.floor(output * output / 2)) / weight)
end

-- What an attempt needs of its tenant's share, and what it was charged (nil: nothing yet).
local function read_demand(d)
  local weight, prompt, output, charged = string.match(d['attempt:service'], '^(%d+):(%d+):(%d+):(%d*)$')
  return {weight = tonumber(weight) or 1, prompt = tonumber(prompt) or 0, output = tonumber(output) or 0,
    charged = tonumber(charged)}
end

local function demand_text(demand)
  return table.concat({text(demand.weight), text(demand.prompt), text(demand.output),
    demand.charged and text(demand.charged) or ''}, ':')
end

-- Charges an attempt that reserves, unless that was done before.
local function charge_service(pool, service, demand, log_tokens)
  if demand.charged then
    return
  end
  redis.call('HSET', pool.service, CLOCK, text(math.max(service_clock(pool), service.counter)))
  local typical = service.outputs > 0 and math.floor(service.outputs / SERVICE.DECAY) or SERVICE.START_OUTPUT
  local output = math.min(demand.output, typical)
  demand.charged = weighted_service(log_tokens + demand.prompt, output, demand.weight)
  service.counter = service.counter + demand.charged
end

-- Ends the live attempt's part in its tenant's share. `done` has the context and output of what was computed, and whether
-- the output is whole; it is nil when nobody knows.
local function end_service(pool, d, done, now)
  local service, demand = stored_service(pool, d.tenant), read_demand(d)
  if d['attempt:worker'] == '' then
    stop_waiting(service)
  end
  if done then
    local actual = weighted_service(done.context, done.output, demand.weight)
    service.counter = math.max(0, service.counter - (demand.charged or 0) + actual)
    if done.is_whole then
      local change = done.output - math.floor(service.outputs / SERVICE.DECAY)
      service.outputs = service.outputs + (service.outputs > 0 and change or SERVICE.DECAY * done.output)
    end
  end
  save_service(pool, service, now)
end

-- Lets a tenant wait for as long as a live attempt of it does.
local function renew_service(pool, d, expiry, now)
  local service = stored_service(pool, d.tenant)
  if d['attempt:worker'] == '' and service.waiting > 0 and service.until_ms < expiry then
    service.until_ms = expiry
    save_service(pool, service, now)
  end
end
