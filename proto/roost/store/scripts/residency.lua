-- Finds where sessions are.
-- KEYS; residency of each worker
-- ARGV; fields: sessions' names, or their `warm_field`
-- Replies one list for each worker: tokens of each field, '' where it has none

local reply = {}
for _, key in ipairs(KEYS) do
  local tokens = redis.call('HMGET', key, unpack(ARGV))
  for i = 1, #ARGV do
    tokens[i] = tokens[i] or ''
  end
  table.insert(reply, tokens)
end
return reply
