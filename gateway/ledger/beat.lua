-- Called by every worker every few seconds: renews its leases, presumes what is overdue, forgets what is old.
-- ARGV[1], JSON: renew: [id, ...]; lease: ms
-- Gives {now, then for each charge presumed: team, labels, images, cost}
local ask = cjson.decode(ARGV[1])
local now = clock()
for _, id in ipairs(ask.renew) do
  redis.call('ZADD', LEASES, 'XX', now + ask.lease, id)
end
local back = end_leases(now)

local out = {now}
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
    book(rec, 'unknown', rec.images, rec.cost, 1)
    keep(id, rec)
    redis.call('ZADD', ENDED, now + KEEP_PRESUMED, id)
    for _, value in ipairs({rec.team, rec.labels, rec.images, rec.cost}) do out[#out + 1] = value end
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', ENDED, '-inf', now, 'LIMIT', 0, 1000)) do
  redis.call('ZREM', ENDED, id)
  redis.call('HDEL', RECORDS, id)
end
return out
