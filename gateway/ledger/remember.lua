-- What an Idempotency-Key stands for: which order took it, and how that ended. One record for (team, key).
-- ARGV[1], JSON: act, key (its whole name, under the hash tag of KEYS), and by act
--   recall                                    look
--   claim     print, rid, keep                take the key for this order, if it is free
--   conclude  rid, status, body | none, keep  keep the answer; body none: it was too long to keep
--   free      rid, status, body               the order was refunded: the key is free, who has joined reads why
-- keep: ms. Gives {state, print, rid, status, body, reservation}: state free | running | done | freed | claimed,
-- status and body of the kept answer ('' where there is none), reservation the ledger's state of rid.
local ask = cjson.decode(ARGV[1])
local KEY = ask.key
local JOINED = 30 * 1000 -- ms that those who have joined have to read why the key came free

local function told(state)
  local kept = redis.call('HMGET', KEY, 'print', 'rid', 'status', 'body')
  local rec = kept[2] and record(kept[2])
  return {state, kept[1] or '', kept[2] or '', kept[3] or '', kept[4] or '', rec and rec.state or ''}
end

local state = redis.call('HGET', KEY, 'state') or 'free'
if ask.act == 'recall' then return told(state) end

if ask.act == 'claim' then
  if state == 'running' or state == 'done' then return told(state) end
  redis.call('DEL', KEY)
  redis.call('HSET', KEY, 'state', 'running', 'print', ask.print, 'rid', ask.rid)
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
redis.call('HSET', KEY, 'state', 'freed', 'status', ask.status, 'body', ask.body)
redis.call('PEXPIRE', KEY, JOINED)
return told('freed')
