-- Reads a log, across the sessions that it shares steps with.
-- KEYS; the session's
-- ARGV base, what ('steps' or 'ids')
-- NUMBERS generations, generation, first, count (of steps or of tokens)
-- Replies {'read', runs in order: each a list of entries, or packed ids}

local session = session_keys(named_keys + 1, args.generations, args.base)
local d, failure = read_session(session)
if not d then
  return failure
end
local runs, at, last = {}, 0, args.first + args.count - 1
if args.generation > d.generation then
  return {'read', runs}
end
for _, part in ipairs(parts_of(session, args.generation, math.huge, math.huge)) do
  local size = args.what == 'steps' and part.steps or part.length
  local from, to = math.max(args.first, at) - at, math.min(last, at + size - 1) - at
  if from <= to and args.what == 'steps' then
    table.insert(runs, redis.call('LRANGE', part.log, text(from), text(to)))
  elseif from <= to then
    table.insert(runs, redis.call('GETRANGE', part.ids, text(4 * from), text(4 * to + 3)))
  end
  at = at + size
end
return {'read', runs}
