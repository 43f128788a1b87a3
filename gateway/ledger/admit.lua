-- Takes an edit's slots from its head alone, and looks whether an order could still fit: charges nothing.
-- ARGV[1], JSON:
--   id, team    the reservation to be; the same id again gives the same answer
--   counters    [{k, w, ...}] each once (common.lua: read)
--   rules       rules.lua. Slots are asked for; all others are only looked at
--   orders      [[rule, ...], ...] what might be ordered, the cheapest first; it is enough that one of them fits
--   lease       ms that slots are held without a renewal
--   patience    ms until an admission that nothing followed is forgotten
-- Gives {status, now, rules...} (rules.lua: answer): status 1 admitted, 0 refused, 2 this id was admitted before,
-- -1 the windows do not hold `now`, -2 this id has ended, -3 the clock is off
-- (records.lua: is_off).
local ask = cjson.decode(ARGV[1])
local now = clock()
if is_off(ask, now) then return {-3, now} end
witness(ask)
local _, granting = end_leases(now)

local rec = record(ask.id)
if rec and rec.state ~= 'admitted' and rec.state ~= 'reserved' then return {-2, now} end
local seen = read_all(ask, now)
if not seen then return {-1, now} end

local states = judge(ask, seen, now, granting, function(c) return rec and c.w == 'slot' end)
if rec then return answer(2, ask, seen, states, now) end

local fits = #ask.orders == 0
for _, order in ipairs(ask.orders) do
  local all = true
  for _, rule in ipairs(order) do all = all and not states[rule].binding end
  fits = fits or all
end
for _, state in ipairs(states) do
  if state.binding and ask.counters[state.at].w == 'slot' then fits = false end
end
if not fits then return answer(0, ask, seen, states, now) end

rec = {state = 'admitted', team = ask.team, slots = {}, charges = {}, periods = {}, labels = ''}
take_slots(ask.id, rec, ask, seen, states, now)
redis.call('ZADD', OPEN, now + ask.patience, ask.id)
keep(ask.id, rec)
return answer(1, ask, seen, states, now)
