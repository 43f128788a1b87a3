-- Ends a reservation. A second end changes nothing, but a definite one replaces a presumption, once.
-- ARGV[1], JSON: id; end: committed | refunded | presumed; final amounts: images, cost, requests; cut: key to mark the
-- order under whose answer was cut off on its way to the client | none
-- Gives {status, state before}: 1 ended now, 0 it had ended already, -1 unknown id.
local ask = cjson.decode(ARGV[1])
local now = clock()
witness(ask)
local rec = record(ask.id)

if ask.cut then
  redis.call('HSET', ask.cut, 'rid', ask.id, 'until', now + REPEATED)
  redis.call('PEXPIRE', ask.cut, 2 * REPEATED)
  redis.call('HSET', META, 'cuts', now + REPEATED)
end

local function remember(state)
  redis.call('ZREM', OPEN, ask.id)
  redis.call('ZREM', LEASES, ask.id)
  redis.call('ZADD', ENDED, now + (state == 'presumed' and KEEP_PRESUMED or KEEP), ask.id)
end

if not rec then
  -- A tombstone: should the reservation itself still be on its way, it comes too late. What was charged by
  -- somebody who lost it is not refundable, so a definite charge of an unknown id is said to be unknown.
  if ask['end'] == 'refunded' then
    keep(ask.id, {state = 'refunded', slots = {}, charges = {}, periods = {}, labels = ''})
    remember('refunded')
  end
  return {-1, ''}
end

local before = rec.state
local call = ask.by and ask.by[1] .. ask.by[2]
-- The reply was lost, and it is the same call again.
if call and rec.call == call then return {1, rec.was} end
if before == 'committed' or before == 'refunded' then return {0, before} end
if before == 'presumed' and ask['end'] == 'presumed' then return {0, before} end

free_slots(rec)
if before == 'presumed' then book(rec, 'unknown', rec.images, rec.cost, -1, now) end
local final = {images = ask.images, usd = ask.cost, requests = ask.requests}
for _, charge in ipairs(rec.charges) do
  give_back(charge, charge.amount - final[charge.unit])
end
if ask['end'] == 'committed' then
  book(rec, 'delivered', ask.images, ask.cost, 1, now)
elseif ask['end'] == 'presumed' then
  book(rec, 'unknown', rec.images, rec.cost, 1, now)
end
rec.state, rec.call, rec.was = ask['end'], call, before
-- Only a presumption can change once more; of any other end the state alone is worth its memory.
if rec.state ~= 'presumed' then
  rec = {state = rec.state, call = call, was = before, slots = {}, charges = {}, periods = {}, labels = ''}
end
keep(ask.id, rec)
remember(rec.state)
return {1, before}
