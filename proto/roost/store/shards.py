"""What is known of the servers of one store: of its only one, or of those of a cluster."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from roost.store.grace import Grace


@dataclass(slots=True)
class Shard:
    """What is known of the server that has the keys of a hash tag."""

    grace: Grace
    run_id: str = ""
    """Of the server's last start; empty until it is read."""


class Shards:
    """The servers of a store, each with a grace period of its own.

    In a cluster there is one for each hash tag, which is a pool's or a tenant's: which server has its keys may change
    at any time, but what a pool has missed stays the same. So a part of the cluster that is away does not keep leases
    of other pools from expiring.
    """

    def __init__(self, new_grace: Callable[[], Grace], *, is_cluster: bool) -> None:
        """`new_grace` gives each server its clock, which may be one for all."""
        self._is_cluster = is_cluster
        self._shards: defaultdict[str, Shard] = defaultdict(lambda: Shard(new_grace()))
        self._whole = new_grace()

    def of(self, key: str) -> Shard:
        """Return what is known of the server of `key`."""
        return self._shards[key.partition("}")[0] if self._is_cluster else ""]

    def grace_seconds(self, key: str) -> float:
        """Return what is left of the grace period of the server of `key`; all of it while the server is away."""
        return max(self._whole.left_seconds, self.of(key).grace.left_seconds)

    def begin_grace(self) -> None:
        """Begin the grace period of all servers, also of those that are not known yet."""
        self._whole.begin()

    def note_run_id(self, key: str, run_id: str) -> None:
        """Note the `run_id` of the server of `key`. Another one than before says that it has restarted, which begins
        the grace period of all tags that it has."""
        before = self.of(key).run_id
        if before and before != run_id:
            for shard in self._shards.values():
                if shard.run_id == before:
                    shard.run_id = run_id
                    shard.grace.begin()
        self.of(key).run_id = run_id
