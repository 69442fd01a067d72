-- Reads what moving sessions takes of their descriptors.
-- KEYS; each session's descriptor
-- Replies for each {tenant, owner, revision, state, nonce of the live attempt, length, steps, updated, moved ('' when
--   it never was), hold:tool, hold:expect, hold:begin ('' for each without a hold)}, or '' when it is gone

local reply = {}
for i, key in ipairs(KEYS) do
  local d = read_fields(key)
  reply[i] = ''
  if d then
    local tool, expect, begin, moved =
      unpack(redis.call('HMGET', key, 'hold:tool', 'hold:expect', 'hold:begin', 'moved'))
    reply[i] = {d.tenant, d.owner, d.revision, d.state, d['attempt:nonce'], text(d.length), text(d.steps),
      text(d.updated), moved or '', tool or '', expect or '', begin or ''}
  end
end
return reply
