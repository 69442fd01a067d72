-- Renews the leases of a pool's attempts, with their reservations, places among the waiters, places in the working set and
-- sessions' idle times.
-- KEYS reservations, waiters, lines, live_ends, service, service_waiting, service_resting; for each attempt its
--   session's
-- NUMBERS lease_ms; for each attempt: epoch, nonce, generations, base
-- Replies for each attempt: 1 live, 0 not live, or {generations, base} when KEYS do not hold its session's keys as
--   they are

local now = now_ms()
local expiry = text(now + args.lease_ms)
pass_memory_limit(keys.reservations)

local function renew_claims(d, session, nonce)
  renew_live(keys, session.name, now)
  renew_service(keys, d, now + args.lease_ms, now)
  local waiter = redis.call('HGET', keys.waiters, nonce)
  if waiter then
    redis.call('HSET', keys.waiters, nonce, (string.gsub(waiter, '^(-?%d+:%d+:%d+:)%d+', '%1' .. expiry)))
    keep_waiters(keys)
  end
  -- A reservation that had run out comes back: the attempt does run there, whatever the ledger thought.
  if d['attempt:worker'] ~= '' then
    claim(keys.reservations, d['attempt:worker'], nonce, d['attempt:tokens'], now + args.lease_ms)
  end
end

local replies, key, session = {}, named_keys + 1, nil
for i = named_args + 1, #ARGV, 4 do
  local epoch, nonce, generations = tonumber(ARGV[i]), ARGV[i + 1], tonumber(ARGV[i + 2])
  session, key = session_keys(key, generations, ARGV[i + 3])
  local d = read_fields(session.descriptor)
  if not d or d['attempt:nonce'] ~= nonce or d.epoch ~= epoch then
    table.insert(replies, 0)
  elseif d.generation ~= generations or d.base ~= session.base then
    table.insert(replies, {d.generation, d.base})
  else
    redis.call('HSET', session.descriptor, 'attempt:expiry', expiry)
    renew_claims(d, session, nonce)
    if d.ttl > 0 and d.expires - now < d.ttl then
      touch(session, d.ttl, now, 2 * args.lease_ms)
    end
    table.insert(replies, 1)
  end
end
return replies
