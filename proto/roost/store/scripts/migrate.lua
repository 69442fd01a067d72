-- Begins a new generation for a live attempt: the log as another revision of the model renders it.
-- KEYS as in _common.lua, then: log and ids of the new generation
-- ARGV as in _common.lua, then: 4 epoch, 5 nonce, 6 previous length, 7 previous hash, 8 length, 9 hash, 10 revision,
--   11 idle time in ms, 12 lease ms, 13 packed ids, then each step as `commit time:packed entry`
-- Replies {'migrated', now, descriptor}

local epoch, nonce = tonumber(ARGV[4]), ARGV[5]
local d, failure = read_session()
if not d then
  return failure
end
if d['attempt:nonce'] ~= nonce or d.epoch ~= epoch then
  return refuse('fenced', 0, d)
end
local now = now_ms()
if d['attempt:migrated'] == '1' then -- sent again: an attempt migrates once
  return {'migrated', now, redis.call('HGETALL', KEYS[3])}
end
failure = wrong_log(d, ARGV[6], ARGV[7], text(d.generation))
if failure then
  return failure
end
if d.steps ~= #ARGV - 13 or 4 * tonumber(ARGV[8]) ~= #ARGV[13] then
  return redis.error_reply('the new log does not have the steps of the old one, or not the ids of its head')
end

local log, ids = KEYS[5 + 2 * d.generation], KEYS[6 + 2 * d.generation]
redis.call('SET', ids, ARGV[13])
redis.call('DEL', log)
for first = 14, #ARGV, 1000 do
  redis.call('RPUSH', log, unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
redis.call('HSET', KEYS[3], 'generation', text(d.generation + 1), 'length', ARGV[8], 'hash', ARGV[9],
  'revision', ARGV[10], 'owner', '', 'updated', text(now), 'attempt:migrated', '1',
  'former', text(d.steps) .. ':' .. text(d.length) .. ':' .. d.hash .. ':' .. d.revision)
touch(tonumber(ARGV[11]), now, 2 * tonumber(ARGV[12]), d.generation + 1)
return {'migrated', now, redis.call('HGETALL', KEYS[3])}
