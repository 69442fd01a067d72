"""The retention policies by the names that a pool's spec gives them (`kvCache.evictionPolicy`).

A new policy is a class that derives from `RetentionPolicy` and its name here.
"""

from collections.abc import Callable, Mapping

from roost_worker.engine.learned_returns import LearnedReturns
from roost_worker.engine.retention import Lru, LruSparingHeld, RetentionPolicy

DEFAULT_POLICY = "LRUSparingHeld"
POLICIES: Mapping[str, Callable[[float], RetentionPolicy]] = {
    DEFAULT_POLICY: lambda _: LruSparingHeld(),
    "LRU": lambda _: Lru(),
    "LearnedReturns": LearnedReturns,
}
"""Each makes a policy for one worker from the model's `RunnerInfo.pair_cost`, which policies may leave unread."""
