-- Keeps an authorization code.
-- KEYS: the code, codes. ARGV: until when, its name, what is kept.
-- One that comes again, late, must not undo that it was taken.
redis.call('HSETNX', KEYS[1], 'value', ARGV[3])
redis.call('HSET', KEYS[1], 'until', ARGV[1])
redis.call('PEXPIREAT', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[1], ARGV[2])
return 1
