-- Puts points of sessions into the index of conversations: under each key the entry, newest first, in place of the
-- session's former one. Entries have one length; the first byte is the state, and 26 follow that name the session.
-- KEYS ; one per entry
-- NUMBERS most (entries under one key); for each key its entry and ttl_ms
-- Replies the number of keys

local NAME_FIRST, NAME_LAST, OTHER_FAMILY = 2, 27, 'n'

local function replaces(entry, other)
  local both_foreign = string.sub(entry, 1, 1) == OTHER_FAMILY and string.sub(other, 1, 1) == OTHER_FAMILY
  return both_foreign or string.sub(entry, NAME_FIRST, NAME_LAST) == string.sub(other, NAME_FIRST, NAME_LAST)
end

for i, key in ipairs(KEYS) do
  local entry, ttl_ms = ARGV[named_args + 2 * i - 1], ARGV[named_args + 2 * i]
  local stored, size, entries = redis.call('GET', key) or '', #entry, {entry}
  if #stored % size == 0 then -- else another version wrote it
    for first = 1, #stored, size do
      local other = string.sub(stored, first, first + size - 1)
      if #entries < args.most and not replaces(entry, other) then
        table.insert(entries, other)
      end
    end
  end
  redis.call('SET', key, table.concat(entries), 'PX', ttl_ms)
end
return #KEYS
