-- Renews the leases of a pool's attempts, with their reservations, places among the waiters and sessions' idle times.
-- KEYS 1 reservations, 2 waiters, then for each attempt: descriptor, steps, log and ids of each generation; the last:
--   lines of waiters
-- ARGV 1 lease ms, then for each attempt: epoch, nonce, generations
-- Replies for each attempt: 1 live, 0 not live, or -n when KEYS should hold n generations

local now, lease_ms = now_ms(), tonumber(ARGV[1])
local expiry = text(now + lease_ms)
pass_memory_limit()

local function renew_claims(d, nonce)
  local waiter = redis.call('HGET', KEYS[2], nonce)
  if waiter then
    redis.call('HSET', KEYS[2], nonce, (string.gsub(waiter, '^(-?%d+:%d+:%d+:)%d+', '%1' .. expiry)))
    keep_waiters()
  end
  -- A reservation that had run out comes back: the attempt does run there, whatever the ledger thought.
  if d['attempt:worker'] ~= '' then
    claim(KEYS[1], d['attempt:worker'], nonce, d['attempt:tokens'], now + lease_ms)
  end
end

local function keep_session(d, first, last)
  if d.ttl > 0 and redis.call('PTTL', KEYS[first]) < d.ttl then
    local at = text(now + d.ttl + 2 * lease_ms)
    redis.call('HSET', KEYS[first], 'expires', at)
    for i = first, last do
      redis.call('PEXPIREAT', KEYS[i], at)
    end
  end
end

local replies, key = {}, 3
for i = 2, #ARGV, 3 do
  local epoch, nonce, generations = tonumber(ARGV[i]), ARGV[i + 1], tonumber(ARGV[i + 2])
  local first, last = key, key + 1 + 2 * generations
  key = last + 1
  local d = read_fields(KEYS[first])
  if not d or d['attempt:nonce'] ~= nonce or d.epoch ~= epoch then
    table.insert(replies, 0)
  elseif d.generation ~= generations then
    table.insert(replies, -d.generation)
  else
    redis.call('HSET', KEYS[first], 'attempt:expiry', expiry)
    renew_claims(d, nonce)
    keep_session(d, first, last)
    table.insert(replies, 1)
  end
end
return replies
