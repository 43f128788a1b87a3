-- Takes what an order needs from every rule that binds it, all or nothing. A refusal leaves no trace.
-- ARGV[1], JSON:
--   id, team    the reservation; the same id again gives the same answer and charges nothing
--   counters    [{k, w, u = unit, ...}] each once (common.lua: read)
--   rules       rules.lua. Two rules on one counter charge it once
--   lease       ms that slots are held without a renewal
--   deadline    ms until the charge is presumed
--   labels, images, cost   of the whole order, for the usage ledger
--   order       key under which a cut answer to this order is marked; '' where nobody is to look, none if not known yet
--   days        [[from, till, period, ...], ...] this day and the next: the periods the order is booked under
-- Gives {status, now, rules..., thresholds...} (rules.lua: answer, warn): status 1 reserved, 0 refused, 2 this id was
-- reserved before, -1 the windows or the days do not hold `now`, -2 this id has ended, -3 the clock is off
-- (records.lua: is_off), -4 `order` has to be known; {-5, now, ms left, id} the answer to the same order, under that id,
-- was cut off on its way to the client, who may be repeating it without knowing what it has bought.
local ask = cjson.decode(ARGV[1])
local now = clock()
if is_off(ask, now) then return {-3, now} end
witness(ask)
local _, granting, cuts = end_leases(now)

local rec = record(ask.id)
if rec and rec.state ~= 'admitted' and rec.state ~= 'reserved' then return {-2, now} end
local seen, periods = read_all(ask, now), nil
for _, day in ipairs(ask.days) do
  if now >= day[1] and now < day[2] then periods = {unpack(day, 3)} end
end
if not seen or not periods then return {-1, now} end

local again = rec and rec.state == 'reserved'
local held = {}
for _, name in ipairs(rec and rec.slots or {}) do held[name] = true end
local states = judge(ask, seen, now, granting, function(c) return again or held[c.k] end)
if again then return warn(answer(2, ask, seen, states, now), ask, seen, states, now, true) end
if now < cuts and ask.order ~= '' then
  if not ask.order then return {-4, now} end
  local cut = redis.call('HMGET', ask.order, 'rid', 'until')
  local left = cut[1] and cut[2] - now or 0
  if left > 0 and left <= REPEATED then return {-5, now, left, cut[1]} end -- see end_leases: a clock may have been ahead
end
for _, state in ipairs(states) do
  if state.binding then return answer(0, ask, seen, states, now) end
end

rec = rec or {slots = {}, charges = {}}
rec.state, rec.team, rec.labels, rec.images, rec.cost = 'reserved', ask.team, ask.labels, ask.images, ask.cost
rec.periods = periods
take_slots(ask.id, rec, ask, seen, states, now)
local charged = {}
for _, state in ipairs(states) do
  local c = ask.counters[state.at]
  if c.w ~= 'slot' and not charged[state.at] then
    charged[state.at] = true
    add(c, seen[state.at], state.amount)
    local at, round = seen[state.at].start, seen[state.at].round
    rec.charges[#rec.charges + 1] = {k = c.k, w = c.w, at = at, round = round, unit = c.u, amount = state.amount}
  end
end
redis.call('ZADD', OPEN, now + ask.deadline, ask.id)
keep(ask.id, rec)
return warn(answer(1, ask, seen, states, now), ask, seen, states, now)
