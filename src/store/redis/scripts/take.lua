-- Takes an authorization code for a session. Answers for which session it was taken, and what was kept.
-- KEYS: the code, codes. ARGV: now, the session, until when it is remembered from now on, the code's name.
local lasts, value, taken = unpack(redis.call('HMGET', KEYS[1], 'until', 'value', 'taken'))
if not lasts or tonumber(lasts) <= tonumber(ARGV[1]) then return false end
-- Who asks again because an answer was lost has it as well.
taken = taken or ARGV[2]
if taken == ARGV[2] then
  redis.call('HSET', KEYS[1], 'taken', taken, 'until', ARGV[3])
  redis.call('PEXPIREAT', KEYS[1], ARGV[3])
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4])
end
return { taken, value }
