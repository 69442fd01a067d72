-- Finds where sessions are.
-- KEYS; residency of each worker
-- ARGV; the sessions' names
-- Replies one list for each worker: cached tokens of each session, '' where it has none

local reply = {}
for _, key in ipairs(KEYS) do
  local tokens = redis.call('HMGET', key, unpack(ARGV))
  for i = 1, #ARGV do
    tokens[i] = tokens[i] or ''
  end
  table.insert(reply, tokens)
end
return reply
