-- What an Idempotency-Key stands for: which order took it, and how that ended. One record for (team, key).
-- ARGV[1], JSON: act, key (its whole name, under the hash tag of KEYS), and by act
--   recall                                    look
--   claim     print, rid, keep, patience      take the key for this order, if it is free; patience: ms in which its
--                                             reservation must follow, or the claim was lost with its worker
--   conclude  rid, status, body | none, keep  keep the answer; body none: it was too long to keep
--   free      rid, status, body | none, headers  the order was refunded: the key is free, who has joined reads why
-- keep: ms. Gives {state, print, rid, status, body, headers, reservation}: state free | running | done | freed |
-- claimed; status, body and headers of the kept answer ('' where there is none); reservation the ledger's state of rid.
local ask = cjson.decode(ARGV[1])
local KEY = ask.key
local JOINED = 30 * 1000 -- ms that those who have joined have to read why the key came free

local function told(state)
  local kept = redis.call('HMGET', KEY, 'print', 'rid', 'status', 'body', 'headers')
  local rec = kept[2] and record(kept[2])
  return {state, kept[1] or '', kept[2] or '', kept[3] or '', kept[4] or '', kept[5] or '', rec and rec.state or ''}
end

local state = redis.call('HGET', KEY, 'state') or 'free'
if state == 'running' then
  -- The holder's last word may have been lost: its reservation knows of a refund, and one that never came is lost too.
  local held = redis.call('HMGET', KEY, 'rid', 'until')
  local holder = record(held[1])
  if holder and holder.state == 'refunded' then state = 'free' end
  -- A reservation is remembered for KEEP at least, so for a while its lack proves that it never came. Later it may have
  -- come and been forgotten, and whose answer was never told: nobody may order that again.
  local late = clock() - tonumber(held[2])
  if not holder and late > 0 then state = late < KEEP / 2 and 'free' or 'done' end
end
if ask.act == 'recall' then return told(state) end

if ask.act == 'claim' then
  -- The claim itself may come twice, for its answer was lost: whoever holds the key must not wait for it.
  if state == 'running' and redis.call('HGET', KEY, 'rid') == ask.rid then return told('claimed') end
  if state == 'running' or state == 'done' then return told(state) end
  redis.call('DEL', KEY)
  redis.call('HSET', KEY, 'state', 'running', 'print', ask.print, 'rid', ask.rid, 'until', clock() + ask.patience)
  redis.call('PEXPIRE', KEY, ask.keep)
  return told('claimed')
end

-- Only who holds the key may say how it ended.
if redis.call('HGET', KEY, 'rid') ~= ask.rid then return told(state) end
if ask.act == 'conclude' then
  redis.call('HSET', KEY, 'state', 'done', 'status', ask.status)
  if ask.body then redis.call('HSET', KEY, 'body', ask.body) end
  redis.call('PEXPIRE', KEY, ask.keep)
  return told('done')
end
redis.call('HSET', KEY, 'state', 'freed', 'status', ask.status, 'headers', ask.headers)
if ask.body then redis.call('HSET', KEY, 'body', ask.body) end
redis.call('PEXPIRE', KEY, JOINED)
return told('freed')
