-- Forgets entries of the revocation log whose time is over, and epochs. Answers how many entries.
-- KEYS: entries, expiry, latest, epochs, epoch_expiry. ARGV: now, how many of each at the most.
local entries, expiry, latest, epochs, epoch_expiry = unpack(KEYS)
local due = redis.call('ZRANGEBYSCORE', expiry, '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, number in ipairs(due) do
  local entry = redis.call('XRANGE', entries, number .. '-0', number .. '-0')[1]
  local fields = entry and entry[2] or {}
  for at = 1, #fields, 2 do
    if fields[at] == 'name' and redis.call('HGET', latest, fields[at + 1]) == number then
      redis.call('HDEL', latest, fields[at + 1])
    end
  end
  redis.call('XDEL', entries, number .. '-0')
  redis.call('ZREM', expiry, number)
end
for _, epoch in ipairs(redis.call('ZRANGEBYSCORE', epoch_expiry, '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])) do
  redis.call('HDEL', epochs, epoch)
  redis.call('ZREM', epoch_expiry, epoch)
end
return #due
