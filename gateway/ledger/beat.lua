-- Called by every worker every few seconds: renews its leases, presumes what is overdue, forgets what is old.
-- ARGV[1], JSON: renew: [id, ...]; lease: ms
-- Gives {1, now, epoch, losses (records.lua: witness), then for each charge presumed: team, labels, images, cost}, or
-- {-3, now} where the clock is off.
local SEATS, SEAT_KEPT = 300, 86400 * 1000 -- fields of META from which on, and ms after which, workers are forgotten
local ask = cjson.decode(ARGV[1])
local now = clock()
if is_off(ask, now) then return {-3, now} end
local epoch, lost = witness(ask)
for _, id in ipairs(ask.renew) do
  redis.call('ZADD', LEASES, 'XX', now + ask.lease, id)
end
local back = end_leases(now)

local out = {1, now, epoch or 0, lost or 0}
-- While the store is just back, the ends that could not be delivered are on their way: nothing is presumed before them.
for _, id in ipairs(back and {} or redis.call('ZRANGEBYSCORE', OPEN, '-inf', now, 'LIMIT', 0, 50)) do
  local rec = record(id)
  redis.call('ZREM', OPEN, id)
  if rec and rec.state == 'admitted' then
    -- Nothing was charged, so there is nothing to presume.
    free_slots(rec)
    redis.call('ZREM', LEASES, id)
    redis.call('HDEL', RECORDS, id)
  elseif rec and rec.state == 'reserved' then
    free_slots(rec)
    redis.call('ZREM', LEASES, id)
    rec.state = 'presumed'
    book(rec, 'unknown', rec.images, rec.cost, 1, now)
    keep(id, rec)
    redis.call('ZADD', ENDED, now + KEEP_PRESUMED, id)
    for _, value in ipairs({rec.team, rec.labels, rec.images, rec.cost}) do out[#out + 1] = value end
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', ENDED, '-inf', now, 'LIMIT', 0, 1000)) do
  redis.call('ZREM', ENDED, id)
  redis.call('HDEL', RECORDS, id)
end
if redis.call('HLEN', META) > SEATS then
  local meta = redis.call('HGETALL', META)
  for i = 1, #meta, 2 do
    -- A number is never below the time of its call.
    if string.sub(meta[i], 1, 2) == 'w:' and tonumber(meta[i + 1]) < now - SEAT_KEPT then redis.call('HDEL', META, meta[i]) end
  end
end
redis.call('ZREMRANGEBYSCORE', USAGE .. 'teams', '-inf', now - USAGE_KEPT * 1000)
return out
