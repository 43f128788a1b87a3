-- Reads the present state of counters, changing nothing.
-- ARGV[1], JSON: counters: [{k, w, ...}] as in common.lua
-- Gives {now, then for each counter: used, reset}; reset -1 where there is none.
local ask = cjson.decode(ARGV[1])
local now = clock()
local out = {now}
for _, c in ipairs(ask.counters) do
  local seen = read(c, now) or {used = 0, stop = -1}
  local reset = -1
  if seen.used > 0 or c.w == 'cal' then reset = reset_and_fit(c, seen, 0, 0) end
  out[#out + 1] = seen.used
  out[#out + 1] = reset
end
return out
