-- Refuses a step for a while, of a session and of its whole family.
-- KEYS quarantine (of the step's digest in the family); the session's
-- ARGV base
-- NUMBERS generations, ms
-- Replies {'done'}, also when the session is gone

local session = session_keys(named_keys + 1, args.generations, args.base)
local d, failure = read_session(session)
if d then
  redis.call('SET', keys.quarantine, 1, 'PX', args.ms)
elseif failure[1] == 'again' then
  return failure
end
return {'done'}
