-- The latest refusals of each team.
-- ARGV[1], JSON: act, and by act
--   keep   teams: [[key, [[ms, text], ...]], ...]
--   find   keys: [key, ...]; from: ms; match: a glob that the text has
-- key: a zset of texts by time, with its whole name. keep gives {1, now}; find {1, now, text, ...}, the latest first in
-- each key.
local ask = cjson.decode(ARGV[1])
local now = clock()
local KEPT, MOST = 30 * 86400 * 1000, 200 -- ms and number that are kept of a team

if ask.act == 'keep' then
  for _, team in ipairs(ask.teams) do
    local key = team[1]
    for _, refusal in ipairs(team[2]) do redis.call('ZADD', key, refusal[1], refusal[2]) end
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now - KEPT)
    redis.call('ZREMRANGEBYRANK', key, 0, -MOST - 1)
    redis.call('PEXPIRE', key, KEPT)
  end
  return {1, now}
end

local out = {1, now}
for _, key in ipairs(ask.keys) do
  local found, cursor = {}, '0'
  repeat
    local page = redis.call('ZSCAN', key, cursor, 'MATCH', ask.match, 'COUNT', 1000)
    cursor = page[1]
    for i = 1, #page[2], 2 do
      local at = tonumber(page[2][i + 1])
      if at >= math.max(ask.from, now - KEPT) then found[#found + 1] = {at, page[2][i]} end
    end
  until cursor == '0'
  table.sort(found, function(a, b) return a[1] > b[1] end)
  for _, refusal in ipairs(found) do out[#out + 1] = refusal[2] end
end
return out
