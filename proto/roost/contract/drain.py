"""How a worker is told to drain: by a key of its own, which holds since when (`PoolKeys.drain`). Pure.

Whoever tells it first counts. The key outlives the time to drain, so that this time can be seen to have run out.
"""

from roost.contract.names import PoolKeys

KEEP_SECONDS = 3600
"""How long the key stays after the time to drain, for whoever was told and is not looked after any more."""
_TELL = """
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
return redis.call('SET', KEYS[1], now, 'NX', 'PX', ARGV[1])
"""


def tell_to_drain(keys: PoolKeys, worker_id: str, drain_seconds: float) -> tuple[str | int, ...]:
    """The Redis command that tells a worker to drain, for `drain_seconds` from the first time on."""
    return "EVAL", _TELL, 1, keys.drain(worker_id), round((drain_seconds + KEEP_SECONDS) * 1000)
