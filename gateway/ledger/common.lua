-- Shared by every script: it stands before each of them. Nothing here is called from outside.
--
-- KEYS, the same for all (one hash tag, so that a Cluster keeps them on one node):
--   1 counters   hash  counter -> packed {start, end, used} | {bucket = used, ...} | number of slots
--   2 records    hash  reservation id -> packed record (reserve.lua)
--   3 open       zset  reservation id by the time its charge is presumed
--   4 leases     zset  reservation id by the time its slots fall free
--   5 ended      zset  reservation id by the time its record is forgotten
--   6 meta       hash  last: when a gateway last called; grace: until when no lease ends
--   7 prefix     not a key of its own: what usage keys begin with, in the same slot
--
-- Units: unix milliseconds of this server's clock, images, micro-dollars. Every number stays below 2^53, where a
-- double is still exact. A decision first reads all, then writes all: nothing in the writing half can fail.
local COUNTERS, RECORDS, OPEN, LEASES, ENDED, META, USAGE =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]

local SLICES = 60            -- slices of a sliding window; the oldest one counts whole, so it errs to the strict side

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function unpacked(value)
  if not value then return nil end
  return cmsgpack.unpack(value)
end

-- A counter as asked for, {k = name, w = kind, ...}, read at `now`. Kinds:
--   'cal' s, e, f: this window [s, e) and the next [e, f)    'all' no window
--   'roll' len: sliding, of `len` ms                         'slot' requests in flight
-- Gives {used, ...} with what `add` needs to write it, or nil where `now` lies in neither window.
local function read(c, now)
  if c.w == 'slot' then
    return {used = tonumber(redis.call('HGET', COUNTERS, c.k) or '0')}
  end
  local kept = unpacked(redis.call('HGET', COUNTERS, c.k))
  if c.w == 'all' then
    return {used = kept and kept[3] or 0, start = 0, stop = 0}
  end
  if c.w == 'cal' then
    local start, stop = c.s, c.e
    if now >= c.e then start, stop = c.e, c.f end
    -- A window only moves forward: a later one that is stored already wins over a clock that went back.
    if kept and kept[1] > start then return {used = kept[3], start = kept[1], stop = kept[2]} end
    if now < start or now >= stop then return nil end
    if kept and kept[1] == start then return {used = kept[3], start = start, stop = stop} end
    return {used = 0, start = start, stop = stop}
  end
  local width = c.len / SLICES
  local current = math.floor(now / width)
  local used, alive = 0, {}
  for slice, amount in pairs(kept or {}) do
    -- Slices ahead of the clock count too: it went back, and what was used stays used.
    if slice >= current - SLICES then
      alive[slice] = amount
      used = used + amount
    end
  end
  return {used = used, slices = alive, start = current, width = width}
end

-- Writes `amount` more (or less) onto a counter that `read` gave.
local function add(c, seen, amount)
  if c.w == 'slot' then
    redis.call('HINCRBY', COUNTERS, c.k, amount)
  elseif c.w == 'roll' then
    seen.slices[seen.start] = (seen.slices[seen.start] or 0) + amount
    redis.call('HSET', COUNTERS, c.k, cmsgpack.pack(seen.slices))
  else
    redis.call('HSET', COUNTERS, c.k, cmsgpack.pack({seen.start, seen.stop, seen.used + amount}))
  end
  seen.used = seen.used + amount
end

-- Gives back into the window it was taken from; where the counter has moved on there is nothing to give back to.
local function give_back(charge, amount)
  if amount <= 0 then return end
  local kept = unpacked(redis.call('HGET', COUNTERS, charge.k))
  if not kept then return end
  if charge.w == 'roll' then
    local had = kept[charge.at]
    if not had then return end
    kept[charge.at] = math.max(0, had - amount)
  else
    if kept[1] ~= charge.at then return end
    kept[3] = math.max(0, kept[3] - amount)
  end
  redis.call('HSET', COUNTERS, charge.k, cmsgpack.pack(kept))
end

-- When a window is empty again (-1: never), and when `amount` would fit under `limit` (-1: never or unknown).
local function reset_and_fit(c, seen, amount, limit)
  if c.w == 'slot' or c.w == 'all' then return -1, -1 end
  local possible = amount <= limit
  if c.w == 'cal' then return seen.stop, possible and seen.stop or -1 end
  local slices = {}
  for slice, taken in pairs(seen.slices) do
    if taken > 0 then slices[#slices + 1] = slice end -- what was given back holds nothing up
  end
  table.sort(slices)
  local function leaves(slice) return math.ceil((slice + SLICES + 1) * seen.width) end
  local reset = #slices > 0 and leaves(slices[#slices]) or -1
  local left, fit = seen.used, -1
  for _, slice in ipairs(slices) do
    left = left - seen.slices[slice]
    if possible and left + amount <= limit then fit = leaves(slice) break end
  end
  return reset, fit
end

-- What every rule of ask.rules says of this order, in their order. own(counter): it is charged for it already.
--   rules  [[counter, limit, 1 enforce | 0 shadow, [[grant, until | -1], ...], amount], ...]; counter counts from 1
local function judge(ask, seen, now, own)
  local states = {}
  for i, rule in ipairs(ask.rules) do
    local c, before = ask.counters[rule[1]], seen[rule[1]]
    local limit, amount = rule[2], rule[5]
    for _, grant in ipairs(rule[4]) do
      if grant[2] == -1 or now < grant[2] then limit = limit + grant[1] end
    end
    local refused = not own(c) and before.used + amount > limit
    states[i] = {at = rule[1], amount = amount, limit = limit, refused = refused, binding = refused and rule[3] == 1}
  end
  return states
end

-- {status, now, then for each rule: used, limit, reset, fit, refused}
local function answer(status, ask, seen, states, now)
  local out = {status, now}
  for _, state in ipairs(states) do
    local c, before = ask.counters[state.at], seen[state.at]
    local reset, fit = reset_and_fit(c, before, state.amount, state.limit)
    for _, value in ipairs({before.used, state.limit, reset, fit, state.refused and 1 or 0}) do out[#out + 1] = value end
  end
  return out
end

local function read_all(ask, now)
  local seen = {}
  for i, c in ipairs(ask.counters) do
    seen[i] = read(c, now)
    if not seen[i] then return nil end
  end
  return seen
end
