-- Remembers that something was presented. Answers 1 where that is so for the first time.
-- KEYS: the mark, codes. ARGV: now, until when, its name, who asks: it may ask again because an answer was lost.
local lasts, by = unpack(redis.call('HMGET', KEYS[1], 'until', 'by'))
if lasts and tonumber(lasts) > tonumber(ARGV[1]) and by ~= ARGV[4] then return 0 end
redis.call('HSET', KEYS[1], 'until', ARGV[2], 'by', ARGV[4])
redis.call('PEXPIREAT', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[3])
return 1
