-- Keeps the greatest number under a field; answers it.
-- KEYS: meta. ARGV: the field, the number.
local there = redis.call('HGET', KEYS[1], ARGV[1])
if there and tonumber(there) > tonumber(ARGV[2]) then return there end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return ARGV[2]
