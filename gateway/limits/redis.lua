-- Decides what several gateways ask at once, in order, as one step.
--
-- KEYS: one per question.  ARGV: how long a lease is, in ms; then three per question: what is asked, a number, a name.
-- Answers one number per question. Everything ends by itself: nothing is left of gateways that are gone.
local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local now_ms = math.floor(now_us / 1000)
local lease_ms = tonumber(ARGV[1])
local MINUTE_US = 60000000

-- One request out of a project's minute (GCRA: all that is kept is when the minute will be whole again).
-- 0, or how long to wait, in µs.
local function admit(key, per_minute)
  local step = math.floor(MINUTE_US / per_minute)
  local whole_at = tonumber(redis.call('GET', key) or now_us)
  whole_at = math.min(math.max(whole_at, now_us), now_us + MINUTE_US) + step  -- another server's clock may differ
  local wait = whole_at - now_us - MINUTE_US
  if wait > 0 then
    return wait
  end
  redis.call('SET', key, string.format('%.0f', whole_at), 'PX', math.ceil((whole_at - now_us) / 1000))
  return 0
end

local function hold(key, name)
  redis.call('ZADD', key, now_ms + lease_ms, name)
  redis.call('PEXPIRE', key, lease_ms)
end

local function living(key)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now_ms)
  return redis.call('ZCARD', key)
end

-- A slot of a project, under a name of its own. 0, or 1 if all are taken.
local function reserve(key, most, name)
  if living(key) >= most then
    return 1
  end
  hold(key, name)
  return 0
end

local answers = {}
for i, key in ipairs(KEYS) do
  local asked, number, name = ARGV[3 * i - 1], tonumber(ARGV[3 * i]), ARGV[3 * i + 1]
  if asked == 'admit' then
    answers[i] = admit(key, number)
  elseif asked == 'reserve' then
    answers[i] = reserve(key, number, name)
  elseif asked == 'renew' then  -- also what this server has never heard of; how many there are
    hold(key, name)
    answers[i] = living(key)
  else
    answers[i] = redis.call('ZREM', key, name)
  end
end
return answers
