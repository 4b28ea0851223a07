-- Takes a row away, unless it has changed.
-- KEYS: the row, expiry, the subject's sessions, the client's sessions. ARGV: the row as it was (empty: gone), the session.
local there = redis.call('GET', KEYS[1])
if there and there ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
for index = 2, #KEYS do redis.call('ZREM', KEYS[index], ARGV[2]) end
return 1
