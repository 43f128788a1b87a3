-- What quota administrators do by command, and who did it.
-- ARGV[1], JSON: act; audit: the key of the changes (a zset by time; its name with :untold, a list, and with :told, what was told last); and by act
--   grant, reset  id (the same again changes nothing); by, reason, team, rule: for people to read;
--                 counters, rules (rules.lua: one of each); amount: what is added, or what is used from now on;
--                 until: ms, of a grant
--   recall        counters, rules; from: ms
--   untold        id (the same again is told the same)
-- Units are those of the rule. A change is {id, act, at, team, rule, unit, by, reason, before, after, until | -1}:
-- before and after are the limit where it is a grant, and what is used where it is a reset.
-- grant, reset and untold give {1, now, change, ...}; recall {1, now, {{rule, amount, until, by, reason, at}, ...},
-- {change, ...}}, the latest first; all of them {-1, now} where the windows do not hold `now`.
local ask = cjson.decode(ARGV[1])
local now = clock()
local UNTOLD, TOLD = ask.audit .. ':untold', ask.audit .. ':told'
local KEPT, MOST = 400 * 86400 * 1000, 10000 -- ms and number of changes that are kept
local AGAIN = 10 * 60 * 1000 -- ms in which a change that is sent again is known

local function changes(from, most)
  local out = {}
  for _, packed in ipairs(redis.call('ZRANGE', ask.audit, '+inf', from, 'BYSCORE', 'REV', 'LIMIT', 0, most)) do
    out[#out + 1] = cmsgpack.unpack(packed)
  end
  return out
end

-- From now on `amount` is used. It stands apart, so that what was charged before is given back out of it alone:
-- in a calendar's window as `left`, in a sliding one in a slice between two, whose number is the round's name.
local function correct(c, seen, amount)
  local kept
  if c.w == 'roll' then
    local round = seen.start + 0.5
    if seen.round and seen.round >= round then round = seen.round + 2 ^ -10 end
    kept = {[0] = round, [round] = amount}
  else
    kept = {seen.start, seen.stop, amount, (seen.round or 0) + 1, amount}
  end
  redis.call('HSET', COUNTERS, c.k, cmsgpack.pack(kept))
end

if ask.act == 'untold' then
  -- The reply may be lost: what was told last is kept, with who was told.
  local last = unpacked(redis.call('GET', TOLD))
  local told = last and last[1] == ask.id and last[2] or redis.call('LPOP', UNTOLD, 100) or {}
  if #told > 0 then redis.call('SET', TOLD, cmsgpack.pack({ask.id, told}), 'PX', AGAIN) end
  local out = {1, now}
  for _, packed in ipairs(told) do out[#out + 1] = cmsgpack.unpack(packed) end
  return out
end

local seen = read_all(ask, now)
if not seen then return {-1, now} end
local granting = tonumber(redis.call('HGET', META, 'granting') or '0')

if ask.act == 'recall' then
  local grants = {}
  for i, rule in ipairs(now < granting and ask.rules or {}) do
    for _, grant in ipairs(grants_of(ask, rule)) do
      if now < grant[2] then grants[#grants + 1] = {i, unpack(grant)} end
    end
  end
  return {1, now, grants, changes(ask.from, MOST)}
end

for _, change in ipairs(changes(now - AGAIN, MOST)) do
  if change[1] == ask.id then return {1, now, change} end
end

local rule, c = ask.rules[1], ask.counters[1]
local before, after = seen[1].used, ask.amount
if ask.act == 'reset' then
  correct(c, seen[1], ask.amount)
else
  local running = {}
  for _, grant in ipairs(grants_of(ask, rule)) do
    if now < grant[2] then running[#running + 1] = grant end
  end
  before = judge(ask, seen, now, granting, function() return true end)[1].limit
  after = before + ask.amount
  running[#running + 1] = {ask.amount, ask['until'], ask.by, ask.reason, now}
  redis.call('HSET', RULES, kept_under('grants', ask, rule), cmsgpack.pack(running))
  redis.call('HSET', META, 'granting', math.max(granting, ask['until']))
end
local change = {ask.id, ask.act, now, ask.team, ask.rule, c.u, ask.by, ask.reason, before, after, ask['until'] or -1}
local packed = cmsgpack.pack(change)
redis.call('ZADD', ask.audit, now, packed)
redis.call('ZREMRANGEBYSCORE', ask.audit, '-inf', now - KEPT)
redis.call('ZREMRANGEBYRANK', ask.audit, 0, -MOST - 1)
redis.call('RPUSH', UNTOLD, packed)
redis.call('LTRIM', UNTOLD, -MOST, -1)
return {1, now, change}
