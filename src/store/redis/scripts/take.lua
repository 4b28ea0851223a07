-- Takes an authorization code for a session. Answers for which session it was taken, and what was kept.
-- KEYS: the code. ARGV: now, the session.
local lasts, value, taken = unpack(redis.call('HMGET', KEYS[1], 'until', 'value', 'taken'))
if not lasts or tonumber(lasts) <= tonumber(ARGV[1]) then return false end
-- Who asks again because an answer was lost has it as well.
taken = taken or ARGV[2]
if taken == ARGV[2] then redis.call('HSET', KEYS[1], 'taken', taken) end
return { taken, value }
