-- Shared by every script: it stands before each of them. Nothing here is called from outside.
--
-- KEYS, the same for all (one hash tag, so that a Cluster keeps them on one node):
--   1 counters   hash  counter -> packed {start, end, used, round, left} | {slice = used + part, ..., [0] = round} |
--                number of slots; round and left only where it was corrected (administer.lua: correct); part: part_of
--   2 records    hash  reservation id -> packed record (reserve.lua)
--   3 open       zset  reservation id by the time its charge is presumed
--   4 leases     zset  reservation id by the time its slots fall free
--   5 ended      zset  reservation id by the time its record is forgotten
--   6 meta       hash  last: when a gateway last called; grace: until when no lease ends; granting: when the last of all
--                grants by command ends; cuts: when the last mark of a cut answer does; epoch, lost, w:<worker>: see
--                records.lua, witness
--   7 rules      hash  what is kept of a rule beside its counter (rules.lua)
--   8 prefix     not a key of its own: what usage keys begin with, in the same slot
--
-- Units: unix milliseconds of this server's clock, images, micro-dollars. Every number stays below 2^53, where a
-- double is still exact; beyond 2^43 ($8.8 million) in one slice its part gets coarser, and may round up to a micro-
-- dollar. A decision first reads all, then writes all: nothing in the writing half can fail.
local COUNTERS, RECORDS, OPEN, LEASES, ENDED, META, RULES, USAGE =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]

local SLICES = 60            -- slices of a sliding window
local PARTS = 1024           -- of a slice

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function unpacked(value)
  if not value then return nil end
  return cmsgpack.unpack(value)
end

local function kept_as(kept, start, stop)
  local seen = {used = kept[3], start = start, stop = stop}
  if kept[4] then seen.round, seen.left = kept[4], kept[5] end
  return seen
end

-- How far into a slice its last charge was, rounded up: the fraction of its value, where none is the whole slice.
local function part_of(value)
  local part = value % 1
  return part == 0 and 1 or part
end

-- When a slice of `width` ms has left its window: with its last charge.
local function leaves(slice, value, width)
  return math.ceil((math.floor(slice) + part_of(value) + SLICES) * width)
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
    return kept_as(kept or {0, 0, 0}, 0, 0)
  end
  if c.w == 'cal' then
    local start, stop = c.s, c.e
    if now >= c.e then start, stop = c.e, c.f end
    -- A window only moves forward: a later one that is stored already wins over a clock that went back.
    if kept and kept[1] > start then return kept_as(kept, kept[1], kept[2]) end
    if now < start or now >= stop then return nil end
    if kept and kept[1] == start then return kept_as(kept, start, stop) end
    return {used = 0, start = start, stop = stop}
  end
  local width = c.len / SLICES
  local current = math.floor(now / width)
  local used, alive, oldest = 0, {}, current - SLICES
  for slice, value in pairs(kept or {}) do
    -- Slices ahead of the clock count too: it went back, and what was used stays used.
    if slice > oldest or (slice == oldest and leaves(slice, value, width) > now) then
      alive[slice] = value
      used = used + math.floor(value)
    end
  end
  return {used = used, slices = alive, start = current, width = width, now = now, round = kept and kept[0]}
end

-- Writes `amount` more (or less) onto a counter that `read` gave.
local function add(c, seen, amount)
  if c.w == 'slot' then
    redis.call('HINCRBY', COUNTERS, c.k, amount)
  elseif c.w == 'roll' then
    local had = seen.slices[seen.start]
    -- Its own millisecond is to be over, too; and a clock may go back.
    local part = math.ceil((seen.now + 1 - seen.start * seen.width) * PARTS / seen.width) / PARTS
    if had then part = math.max(part, part_of(had)) end
    seen.slices[seen.start] = math.floor(had or 0) + amount + part % 1
    seen.slices[0] = seen.round
    redis.call('HSET', COUNTERS, c.k, cmsgpack.pack(seen.slices))
    seen.slices[0] = nil
  else
    redis.call('HSET', COUNTERS, c.k, cmsgpack.pack({seen.start, seen.stop, seen.used + amount, seen.round, seen.left}))
  end
  seen.used = seen.used + amount
end

-- Gives back into the window it was taken from; where the counter has moved on there is nothing to give back to.
-- What was taken before a correction comes out of what that left, never out of what was taken since.
local function give_back(charge, amount)
  if amount <= 0 then return end
  local kept = unpacked(redis.call('HGET', COUNTERS, charge.k))
  if not kept then return end
  if charge.w == 'roll' then
    local at = charge.at
    if charge.round ~= kept[0] then
      -- What had left the window by then, or was about to, had no part in that.
      if not kept[0] or at <= math.floor(kept[0]) - SLICES then return end
      at = kept[0]
    end
    local had = kept[at]
    if not had then return end
    kept[at] = math.max(0, math.floor(had) - amount) + had % 1
  else
    if kept[1] ~= charge.at then return end
    if charge.round ~= kept[4] then
      amount = math.min(amount, kept[5] or 0)
      kept[5] = (kept[5] or 0) - amount
    end
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
  for slice, value in pairs(seen.slices) do
    if value >= 1 then slices[#slices + 1] = slice end -- what was given back holds nothing up
  end
  table.sort(slices)
  local last, left, fit = slices[#slices], seen.used, -1
  local reset = last and leaves(last, seen.slices[last], seen.width) or -1
  for _, slice in ipairs(slices) do
    local value = seen.slices[slice]
    left = left - math.floor(value)
    if possible and left + amount <= limit then fit = leaves(slice, value, seen.width) break end
  end
  return reset, fit
end
