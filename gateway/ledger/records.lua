-- Reservations: their records, their leases and the usage they are booked under. It stands before each script.
--
-- A record: state    admitted (slots held, nothing charged) -> reserved -> committed | refunded | presumed
--           team     slots    counters whose slots it holds
--           charges  [{k counter, w kind, at window start or slice, round of its corrections, unit, amount}, ...]
--           labels   key|account|model|size|quality|endpoint      periods  [team:2026-11-22, team:2026-11]
--           images, cost   of the whole order
local KEEP = 3600 * 1000      -- how long an ended reservation is remembered, so that a repeated call changes nothing
local KEEP_PRESUMED = 24 * KEEP -- how long a definite outcome may still replace a presumption
local AWAY = 10 * 1000        -- no call for this long: the store was away, and so were the renewals of its leases
local GRACE = 30 * 1000       -- after that, no lease ends for this long
local USAGE_KEPT = 400 * 86400
local REPEATED = 60 * 1000    -- how long an order whose answer was cut off is not made again
local SKEW = 5 * 1000         -- how far a clock may be from where it was seen to go

local function record(id)
  return unpacked(redis.call('HGET', RECORDS, id))
end

local function keep(id, rec)
  redis.call('HSET', RECORDS, id, cmsgpack.pack(rec))
end

local function free_slots(rec)
  for _, name in ipairs(rec.slots or {}) do
    if redis.call('HINCRBY', COUNTERS, name, -1) < 0 then redis.call('HSET', COUNTERS, name, 0) end
  end
  rec.slots = {}
end

-- Takes the slots of ask.counters that `rec` does not hold yet, for `lease` ms.
local function take_slots(id, rec, ask, seen, states, now)
  local held = {}
  for _, name in ipairs(rec.slots) do held[name] = true end
  for _, state in ipairs(states) do
    local c = ask.counters[state.at]
    if c.w == 'slot' and not held[c.k] then
      held[c.k] = true
      rec.slots[#rec.slots + 1] = c.k
      add(c, seen[state.at], 1)
    end
  end
  if #rec.slots > 0 then redis.call('ZADD', LEASES, now + ask.lease, id) end
end

-- Frees the slots of leases that ran out, unless the store is just back from being away.
-- Gives whether it is, until when there are grants by command, and until when there are marks of cut answers (0: there
-- are none).
local function end_leases(now)
  local meta = redis.call('HMGET', META, 'last', 'grace', 'granting', 'cuts')
  local last, grace = tonumber(meta[1] or now), tonumber(meta[2] or '0')
  local granting, cuts = tonumber(meta[3] or '0'), tonumber(meta[4] or '0')
  if now - last > AWAY then
    grace = now + GRACE
    redis.call('HSET', META, 'grace', grace)
  end
  redis.call('HSET', META, 'last', now)
  -- One further ahead was written by a clock that has been set right since.
  if grace > now and grace <= now + GRACE then return true, granting, cuts end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 200)) do
    local rec = record(id)
    if rec then
      free_slots(rec)
      keep(id, rec)
    end
    redis.call('ZREM', LEASES, id)
  end
  return false, granting, cuts
end

-- Who calls, and what it knows: ask.by = {worker, number of this call, number of its last one that was answered, epoch,
-- losses, what the store's clock should be in ms | -1}. A caller that keeps no count says nothing.
--
-- A worker's numbers only grow, and each is put down here. Where less stands here than the store has acknowledged,
-- this is not the store that did: it was flushed, or has taken over without the last writes. Then a new epoch begins,
-- in which nobody compares before it has heard of it: one loss is noticed once.
-- Gives the epoch and how often history was lost.
local function witness(ask)
  local by = ask.by
  if not by then return end
  local seat = 'w:' .. by[1]
  local meta = redis.call('HMGET', META, 'epoch', 'lost', seat)
  local epoch, lost, number = tonumber(meta[1] or '0'), tonumber(meta[2] or '0'), tonumber(meta[3] or '0')
  if epoch < by[4] or (epoch == by[4] and number < by[3]) then
    epoch, lost = math.max(epoch, by[4]) + 1, math.max(lost, by[5]) + 1
    redis.call('HSET', META, 'epoch', epoch, 'lost', lost, seat, by[2])
  elseif number < by[2] then
    redis.call('HSET', META, seat, by[2])
  end
  return epoch, lost
end

-- Whether this server's clock is not where the caller has seen it go: by it, windows would end that have not.
local function is_off(ask, now)
  local reckoned = ask.by and ask.by[6] or -1
  return reckoned >= 0 and math.abs(now - reckoned) > SKEW
end

-- Books images and money of a record into the usage of its day and its month, `sign` 1 or -1. The teams that have usage
-- stand in a zset by the time of their last booking, so that one that has left the config is found (beat.lua forgets it).
local function book(rec, kind, images, cost, sign, now)
  redis.call('ZADD', USAGE .. 'teams', now, rec.team)
  for _, period in ipairs(rec.periods) do
    local key = USAGE .. period
    redis.call('HINCRBY', key, rec.labels .. '|' .. kind .. '|images', sign * images)
    redis.call('HINCRBY', key, rec.labels .. '|' .. kind .. '|usd', sign * cost)
    redis.call('EXPIRE', key, USAGE_KEPT)
  end
end
