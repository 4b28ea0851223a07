-- Adds an entry to the revocation log, and does to latest and epochs what goes with it. Answers its number and until when it
-- lasts; nothing where the entry that has to be there is not.
-- KEYS: meta, entries, expiry, latest, epochs, epoch_expiry, done.
-- ARGV: the least number it may have, its uid, until when it lasts, the entry, its name; whether it stands for that name
-- ('1'); the epoch it makes or takes back, or ''; whether it makes one ('1'); the number of an entry that has to be there,
-- or ''; then the numbers of entries that go.
local meta, entries, expiry, latest, epochs, epoch_expiry, done = unpack(KEYS)
local least, uid, lasts, entry, name, stands, epoch, makes, required = unpack(ARGV)
local function take_out(number)
  redis.call('XDEL', entries, number .. '-0')
  redis.call('ZREM', expiry, number)
end

-- Who asks again because an answer was lost is told what came of it. That is written again, so that WAIT has something to
-- wait for.
local before = redis.call('GET', done)
if before then
  redis.call('SET', done, before, 'PX', 60000)
  return before
end
if required ~= '' and #redis.call('XRANGE', entries, required .. '-0', required .. '-0') == 0 then return false end

local last = tonumber(redis.call('HGET', meta, 'last') or '0')
local number = string.format('%.0f', math.max(last + 1, tonumber(least)))
for index = 10, #ARGV do take_out(ARGV[index]) end
-- It lasts as long as the one whose place it takes: a clock may have been set back since.
local former = redis.call('HGET', latest, name)
if former then
  local lasted = redis.call('ZSCORE', expiry, former)
  if lasted and tonumber(lasted) > tonumber(lasts) then lasts = string.format('%.0f', tonumber(lasted)) end
  take_out(former)
  redis.call('HDEL', latest, name)
end
if stands == '1' then redis.call('HSET', latest, name, number) end
if epoch ~= '' and makes == '1' then
  local ends = redis.call('HGET', meta, 'last_session_ends') or '0'
  if tonumber(ends) < tonumber(lasts) then ends = lasts end
  redis.call('HSET', epochs, epoch, number)
  redis.call('ZADD', epoch_expiry, ends, epoch)
elseif epoch ~= '' then
  redis.call('HDEL', epochs, epoch)
  redis.call('ZREM', epoch_expiry, epoch)
end
redis.call('XADD', entries, number .. '-0', 'until', lasts, 'uid', uid, 'name', name, 'entry', entry)
redis.call('ZADD', expiry, lasts, number)
redis.call('HSET', meta, 'last', number, 'uid', uid)
local answer = number .. ' ' .. lasts
redis.call('SET', done, answer, 'PX', 60000)
return answer
