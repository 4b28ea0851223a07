-- A new row and its places in the indexes. Answers 1, or 0 where another row is there.
-- KEYS: the row, expiry, the subject's sessions, the client's sessions. ARGV: the row, the session, when it may be forgotten.
local there = redis.call('GET', KEYS[1])
if there and there ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2])
redis.call('ZADD', KEYS[3], 0, ARGV[2])
redis.call('ZADD', KEYS[4], 0, ARGV[2])
return 1
