-- A row in place of another, unless that has changed. Answers 1, or what is there.
-- Its place in the expiry index stays: a sweep moves it when its time has come.
-- KEYS: the row. ARGV: the row as it was, as it is to be.
local there = redis.call('GET', KEYS[1])
-- Who asks again because an answer was lost finds its own row; it is written again, so that WAIT has something to wait for.
if there ~= ARGV[1] and there ~= ARGV[2] then return there end
redis.call('SET', KEYS[1], ARGV[2])
return 1
