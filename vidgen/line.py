"""
The line of those dispatches that are due and find no free place of a worker: users share.

arq takes what has the lowest score. A dispatch is sent with the moment it is due as its score, and
as long as there is room for all nobody asks for more. Once there is not, those that are due are
lined up before the next one is taken: each gets a score in seconds of video. This is start-time
fair queueing, of P. Goyal, H. Vin and H. Cheng (SIGCOMM 1996): a dispatch begins where the last one
of its user ends, but not before the head of the line. So whoever comes late begins at the head
beside those who sent thousands, and whoever sent nothing for a while has saved nothing up.

    score       what
    … 1e10      ahead of all, by their due times in seconds: paid for, or their turn is reserved
    1e10 … 1e12 in line, in milliseconds of video
    1e12 …      not lined up: due then, in milliseconds; arq takes none before its time

A step of priority is worth `HEAD_START_MS` of video. Those of one priority share among themselves:
who joins them begins where they have got to. Nothing runs for ever on a head start: it is used up
by what is served on it.

`shares`, a sorted set, has as scores under `''` how far the line has got, under a priority how far
those of it have got, and under a priority and user the end of their last one. It is made afresh
whenever nobody is in line any more, as when Redis was emptied.
"""

from datetime import datetime
from hashlib import blake2b
from typing import TYPE_CHECKING

from redis.asyncio import Redis

from vidgen.job import USUAL_SECONDS

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

FUNCTION = "generate_video"
# As arq 0.28 names its keys.
MESSAGE_PREFIX = "arq:job:"
IN_PROGRESS_PREFIX = "arq:in-progress:"
RETRY_PREFIX = "arq:retry:"

# Of video: what a job goes before for each step of its priority.
HEAD_START_MS = 10 * 60 * 1000
MAX_PRIORITY = 9
LINE_FROM = 10**10
# In the middle of nowhere: head starts lead back from it, and no user gets to the end of it.
LINE_BEGIN = 10**11
LINE_END = 10**12
# Dispatches that one script looks at: some milliseconds, in which Redis does nothing else.
BATCH = 1000
# What is kept of a line that nobody was added to.
KEPT_MS = 7 * 24 * 3600 * 1000

AHEAD = "ahead"

_LINE_UP = """
local queue, shares = KEYS[1], KEYS[2]
local now, most, prefix, mark, ours = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local line_from, line_begin, line_end = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local step, top, usual, kept = tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11], ARGV[12]
local due = redis.call('ZRANGEBYSCORE', queue, ARGV[8], now, 'WITHSCORES', 'LIMIT', 0, most)
if #due == 0 then return 0 end
local head = redis.call(
    'ZRANGEBYSCORE', queue, line_from, '(' .. ARGV[8], 'WITHSCORES', 'LIMIT', 0, 1
)
if #head == 0 then redis.call('DEL', shares) end
local keys, known, names, at = {}, {}, {''}, {}
for n = 1, #due, 2 do keys[#keys + 1] = prefix .. due[n] end
for n = 1, top do names[#names + 1] = tostring(n) end
for n, message in ipairs(redis.call('MGET', unpack(keys))) do
    message = message or ''
    local priority, user, cost = string.match(message, '"share":%["(%d):(%x+)",(%d+)%]')
    if priority == nil then
        -- Of a release before: as urgent as it is old, and one of a user that all those share.
        priority = math.floor((now - tonumber(due[2 * n])) / step)
        priority, user, cost = math.max(0, math.min(priority, top)), '', usual
    end
    known[n] = {
        is_ours = message == '' or string.find(message, ours, 1, true),
        is_ahead = string.find(message, mark, 1, true),
        priority = tonumber(priority), name = priority .. ':' .. user, cost = tonumber(cost)
    }
    if at[known[n].name] == nil then
        at[known[n].name] = 0
        names[#names + 1] = known[n].name
    end
end
for n, score in ipairs(redis.call('ZMSCORE', shares, unpack(names))) do
    at[names[n]] = tonumber(score or 0)
end
local served = math.max(line_begin, at[''], tonumber(head[2] or 0))
at[''] = served
local scores = {}
for n, each in ipairs(known) do
    local score
    if not each.is_ours then
        score = served - top * step  -- cron's ticks are short, and rare
    elseif each.is_ahead then
        score = math.floor(due[2 * n] / 1000)
    else
        local from, others = served - each.priority * step, tostring(each.priority)
        if each.priority > 0 then
            from = math.max(from, at[others])
            at[others] = from
        end
        score = math.max(from, at[each.name])
        at[each.name] = math.min(score + each.cost, line_end - 1)
    end
    scores[2 * n - 1], scores[2 * n] = score, due[2 * n - 1]
end
redis.call('ZADD', queue, unpack(scores))
local ends = {}
for _, name in ipairs(names) do
    if at[name] > 0 then
        ends[#ends + 1] = at[name]
        ends[#ends + 1] = name
    end
end
redis.call('ZADD', shares, unpack(ends))
-- Behind every head start: who ended there begins no later than anybody.
redis.call('ZREMRANGEBYSCORE', shares, '-inf', '(' .. (served - top * step))
redis.call('PEXPIRE', shares, kept)
return #known
"""

# What was lined up and is not needed any more is taken from the share of its user.
_WITHDRAW = """
local queue, shares = KEYS[1], KEYS[2]
local line_from, line_end = tonumber(ARGV[1]), tonumber(ARGV[2])
local message_key, mark_key, tries_key = ARGV[3], ARGV[4], ARGV[5]
for n = 6, #ARGV do
    local id = ARGV[n]
    local score = tonumber(redis.call('ZSCORE', queue, id) or 0)
    if score >= line_from and score < line_end then
        local message = redis.call('GET', message_key .. id) or ''
        local name, cost = string.match(message, '"share":%["(%d:%x+)",(%d+)%]')
        if name then redis.call('ZADD', shares, 'XX', 'INCR', -cost, name) end
    end
    redis.call('ZREM', queue, id)
    redis.call('DEL', message_key .. id, mark_key .. id, tries_key .. id)
end
"""


def shares_name(queue_name: str) -> str:
    """Where it stands who got how far."""
    return f"{queue_name}:shares"


def hashed(user_id: str | None) -> str:
    """Of a user, for Redis: no word of theirs. Never empty."""
    return blake2b((user_id or "").encode(), digest_size=8).hexdigest()


def share_name(user_id: str | None, priority: int) -> str:
    """Those that line up one behind the other: of one user and priority."""
    return f"{priority}:{hashed(user_id)}"


def lining_up(redis: Redis) -> "AsyncScript":
    """The script of `line_up`."""
    return redis.register_script(_LINE_UP)


def withdrawal(redis: Redis) -> "AsyncScript":
    """The script of `withdraw`."""
    return redis.register_script(_WITHDRAW)


async def line_up(script: "AsyncScript", queue_name: str, now: datetime) -> int:
    """Line up all that is due and not in line yet; how many it were. *script*: a `lining_up`."""
    now_ms, lined_up = round(now.timestamp() * 1000), 0
    while True:
        answer = await script(
            keys=[queue_name, shares_name(queue_name)],
            args=[
                *(now_ms, BATCH, MESSAGE_PREFIX, f'"share":"{AHEAD}"', f'"f":"{FUNCTION}"'),
                *(LINE_FROM, LINE_BEGIN, LINE_END, HEAD_START_MS, MAX_PRIORITY),
                *(USUAL_SECONDS * 1000, KEPT_MS),
            ],
        )
        count = int(answer or 0)  # none: patience is over
        lined_up += count
        if count < BATCH:
            return lined_up


async def withdraw(script: "AsyncScript", queue_name: str, ids: list[str]) -> None:
    """Forget dispatches, and what their users were charged for them. *script*: a `withdrawal`."""
    await script(
        keys=[queue_name, shares_name(queue_name)],
        args=[
            *(LINE_FROM, LINE_END, MESSAGE_PREFIX, IN_PROGRESS_PREFIX, RETRY_PREFIX),
            *ids,
        ],
    )
