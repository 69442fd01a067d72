-- Appends a step to the log, if the attempt is still live.
-- KEYS as in _common.lua
-- ARGV as in _common.lua, then: 4 epoch, 5 nonce, 6 step id, 7 previous length, 8 previous hash, 9 length, 10 hash,
--   11 packed entry, 12 packed ids, 13 idle time in ms, 14 owner, 15 prompt, 16 output, 17 cached and
--   18 reconstructed tokens, 19 model revision
-- Replies {'committed', index, stored entry}

local epoch, nonce, step = tonumber(ARGV[4]), ARGV[5], ARGV[6]
local d, failure = read_session()
if not d then
  return failure
end
local committed = redis.call('HGET', KEYS[4], step)
if committed then
  local generation, index, by = string.match(committed, '^(%d+):(%d+):%x*:(%x*)$')
  if by ~= nonce then
    return refuse('fenced', 0, d)
  end
  return {'committed', tonumber(index), redis.call('LINDEX', KEYS[3 + 2 * generation], index)}
end
if d['attempt:nonce'] ~= nonce or d.epoch ~= epoch or d['attempt:step'] ~= step then
  return refuse('fenced', 0, d)
end
failure = wrong_log(d, ARGV[7], ARGV[8], text(d.generation))
if failure then
  return failure
end
if d.steps > 0 and d.revision ~= '' and d.revision ~= ARGV[19] then
  return refuse('wrong_revision', 0, d, 'this generation belongs to revision ' .. d.revision .. ', not ' .. ARGV[19])
end

pass_memory_limit()
local now = now_ms()
local entry = text(now) .. ':' .. ARGV[11]
local index = redis.call('RPUSH', d.log, entry) - 1
redis.call('APPEND', d.ids, ARGV[12])
redis.call('HSET', KEYS[4], step, text(d.generation) .. ':' .. text(index) .. ':' .. d['attempt:digest'] .. ':' .. nonce)
redis.call('HSET', KEYS[3], 'length', ARGV[9], 'hash', ARGV[10], 'steps', text(d.steps + 1), 'owner', ARGV[14],
  'revision', ARGV[19], 'updated', text(now))
redis.call('HINCRBY', KEYS[3], 'prompt', ARGV[15])
redis.call('HINCRBY', KEYS[3], 'output', ARGV[16])
redis.call('HINCRBY', KEYS[3], 'cached', ARGV[17])
redis.call('HINCRBY', KEYS[3], 'reconstructed', ARGV[18])
end_attempt(d)
touch(tonumber(ARGV[13]), now, 0)
return {'committed', index, entry}
