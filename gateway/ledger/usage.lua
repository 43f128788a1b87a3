-- Reads rules as they stand, changing nothing.
-- ARGV[1], JSON: counters, rules (rules.lua), each for an amount of 0
-- Gives {status, now, rules...} (rules.lua: answer): status 1, or -1 the windows do not hold `now`.
local ask = cjson.decode(ARGV[1])
local now = clock()
local seen = read_all(ask, now)
if not seen then return {-1, now} end
local granting = tonumber(redis.call('HGET', META, 'granting') or '0')
return answer(1, ask, seen, judge(ask, seen, now, granting, function() return true end), now)
