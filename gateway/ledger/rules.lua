-- Rules: what each says of an order, with its grants, and its thresholds. It stands before the scripts
-- that judge.
--
-- ask.rules  [[counter, limit, 1 enforce | 0 shadow, [[grant, until | -1], ...], amount, [percent, ...] | none], ...]
--            counter: its place in ask.counters, from 1; grants: those of the config; percents: thresholds that warn
-- In RULES, by kind, counter and mode, so that a rule may be renamed and its limit changed:
--   grants   packed {{amount, until, by, reason, at}, ...}: what commands have granted (administer.lua)
--   warned   and percent: packed {window, level, id}: that it was told of this window, of which height, and to whom
local FLEETING = 3600 * 1000 -- requests in flight have no window: their thresholds are told once in so many ms

local function kept_under(kind, ask, rule)
  return kind .. '|' .. ask.counters[rule[1]].k .. (rule[3] == 1 and '|enforce' or '|shadow')
end

local function grants_of(ask, rule)
  return unpacked(redis.call('HGET', RULES, kept_under('grants', ask, rule))) or {}
end

local function read_all(ask, now)
  local seen = {}
  for i, c in ipairs(ask.counters) do
    seen[i] = read(c, now)
    if not seen[i] then return nil end
  end
  return seen
end

-- What every rule of ask.rules says of this order, in their order. own(counter): it is charged for it already.
-- granting: until when there are grants by command at all (records.lua: end_leases).
local function judge(ask, seen, now, granting, own)
  local states = {}
  for i, rule in ipairs(ask.rules) do
    local c, before = ask.counters[rule[1]], seen[rule[1]]
    local limit, amount = rule[2], rule[5]
    for _, grant in ipairs(rule[4]) do
      if grant[2] == -1 or now < grant[2] then limit = limit + grant[1] end
    end
    if now < granting then
      for _, grant in ipairs(grants_of(ask, rule)) do
        if now < grant[2] then limit = limit + grant[1] end
      end
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

-- Adds to an answer each threshold that this charge is the first to find passed in its window: rule, percent, ...
-- A limit that was changed has thresholds of another height, which are told anew once they are higher. again: the same
-- call as before, whose answer was lost: it is told what it was told.
local function warn(out, ask, seen, states, now, again)
  for i, rule in ipairs(ask.rules) do
    for at = 1, rule[6] and #rule[6] or 0 do
      local c, after, level = ask.counters[rule[1]], seen[rule[1]], math.ceil(states[i].limit * rule[6][at] / 100)
      if after.used > 0 and after.used >= level then
        local span = c.len or (c.w == 'slot' and FLEETING)
        local name = kept_under('warned', ask, rule) .. '|' .. rule[6][at]
        local told = unpacked(redis.call('HGET', RULES, name))
        local due
        if again then
          due = told and told[3] == ask.id
        elseif not told or told[1] < (span and now - span + 1 or after.start) or told[2] < level then
          due = true
          redis.call('HSET', RULES, name, cmsgpack.pack({span and now or after.start, level, ask.id}))
        end
        if due then
          out[#out + 1] = i
          out[#out + 1] = rule[6][at]
        end
      end
    end
  end
  return out
end
