"""Names of the keys in Redis (docs/contracts.md). Pure.

Every key of a pool carries the hash tag `{namespace/pool}`, and a session's name contains its pool. So every key is
known before a script is called, and all keys of a script live in one slot of a Redis Cluster.
"""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DetachedKeys:
    """The Redis keys of one detached step (`roost.store.detached`)."""

    record: str
    """Hash with a time to live: what is needed to take the step over, who runs it, and how far it has come."""

    @property
    def events(self) -> str:
        """List with a time to live: the events so far, each a serialised `StepResponse`."""
        return f"{self.record}:events"

    @property
    def news(self) -> str:
        """Pub/sub channel: an empty message with each report."""
        return f"{self.record}:news"


@dataclass(frozen=True, slots=True)
class PoolKeys:
    """The Redis keys of one pool. `pool` is `namespace/name`."""

    pool: str

    @property
    def prefix(self) -> str:
        return f"roost:{{{self.pool}}}"

    @property
    def document(self) -> str:
        """String: the pool document, JSON (docs/contracts.md)."""
        return f"{self.prefix}:pool"

    def tenant_sessions(self, tenant: str) -> str:
        """Sorted set, all scores 0: the tenant's session names, so that they sort by creation."""
        return f"{self.prefix}:tenant:{tenant}:sessions"

    def task_account(self, tenant: str, task: str) -> str:
        """Hash with a time to live: what all sessions of a tenant's task have used (`roost.store.budgets`)."""
        return f"{self.prefix}:tenant:{tenant}:task:{hashlib.blake2b(task.encode(), digest_size=16).hexdigest()}"

    def role_account(self, role: str) -> str:
        """Hash with a time to live: what all sessions of a role have used in the current window of its budget."""
        return f"{self.prefix}:role:{role}:account"

    def tenant_account(self, tenant: str) -> str:
        """Hash with a time to live: what a tenant has used in the current window of the tenants' budget."""
        return f"{self.prefix}:tenant:{tenant}:account"

    def open_request(self, tenant: str, request_id: str) -> str:
        """String with a time to live: the session that was opened with this `request_id`."""
        return f"{self.prefix}:tenant:{tenant}:open:{request_id}"

    def session(self, session_id: str) -> str:
        """Hash: the descriptor."""
        return f"{self.prefix}:s:{session_id.rsplit('/', 1)[1]}"

    def log(self, session_id: str, generation: int) -> str:
        """List: one packed, compressed entry per committed step."""
        return f"{self.session(session_id)}:log:{generation}"

    def ids(self, session_id: str, generation: int) -> str:
        """String: the log's token ids, little-endian uint32, read by range."""
        return f"{self.session(session_id)}:ids:{generation}"

    def forks(self, session_id: str, generation: int) -> str:
        """Sorted set: `steps:length:session` -> until when that fork needs so many steps and tokens of the log, in ms
        of Redis TIME."""
        return f"{self.session(session_id)}:forks:{generation}"

    def steps(self, session_id: str) -> str:
        """Hash: committed step id -> `generation:index:digest:nonce` (hex), which tells a repeated step from a reused
        id."""
        return f"{self.session(session_id)}:steps"

    def family(self, session_id: str) -> str:
        """Sorted set: each session that was branched off this one, or off one of those -> until when it needs what they
        were all opened with, in ms of Redis TIME."""
        return f"{self.session(session_id)}:family"

    def quarantine(self, family: str, digest: bytes) -> str:
        """String with a time to live: a step with this digest, of a session or of any session that was branched off it,
        killed workers and is refused until then."""
        return f"{self.session(family)}:quarantine:{digest.hex()}"

    def detached(self, session_id: str, step_id: str) -> DetachedKeys:
        """Keys of a detached step. Clients name it: its id is hashed, so that no id is another key's name."""
        digest = hashlib.blake2b(step_id.encode(errors="surrogatepass"), digest_size=16).hexdigest()
        return DetachedKeys(f"{self.session(session_id)}:detached:{digest}")

    def conversation(self, digest: bytes) -> str:
        """String with a time to live: points of sessions at which a conversation has this hash
        (`roost.store.conversation_index`)."""
        return f"{self.prefix}:c:{digest.hex()}"

    @property
    def reservations(self) -> str:
        """Hash, the admission ledger of all workers of the pool: `worker_id|nonce` -> `tokens:expiry_ms`, and the sums
        of that: `=worker_id` -> `tokens:count`, `=` -> `fields:earliest expiry_ms`."""
        return f"{self.prefix}:reservations"

    @property
    def waiters(self) -> str:
        """Hash: nonce -> `class:enqueued_ms:deadline_ms:expiry_ms:line|rank|tenant`; steps that wait in any gateway."""
        return f"{self.prefix}:waiters"

    @property
    def lines(self) -> str:
        """Sorted set, all scores 0, of `line|rank|nonce`: the waiters in order. Each model revision that steps need is
        a line; the line without a name has the steps that any worker can serve."""
        return f"{self.prefix}:lines"

    @property
    def service(self) -> str:
        """Hash with a time to live: tenant -> `counter:outputs:waiting:until_ms`, what it has had of the pool
        (`roost.store.service`); `:` -> the clock."""
        return f"{self.prefix}:service"

    @property
    def service_waiting(self) -> str:
        """Sorted set with a time to live: tenant of which steps wait -> its counter."""
        return f"{self.prefix}:service:waiting"

    @property
    def service_resting(self) -> str:
        """Sorted set with a time to live: any other tenant -> when it was changed last, in ms of Redis TIME."""
        return f"{self.prefix}:service:resting"

    @property
    def live(self) -> str:
        """Hash: live session -> `prefix|tokens|family|tokens|own|promised|worker`, what it needs and where
        (`roost.store.working_set`)."""
        return f"{self.prefix}:live"

    @property
    def live_ends(self) -> str:
        """Sorted set: live session -> until when it is live, in ms of Redis TIME."""
        return f"{self.prefix}:live:ends"

    @property
    def live_shares(self) -> str:
        """Sorted set, all scores 0, of `worker|group|tokens|session`: what live sessions share."""
        return f"{self.prefix}:live:shares"

    @property
    def live_sums(self) -> str:
        """Hash: `worker` -> `tokens:sessions`; `=` -> `sessions:shares`, how many there should be; `*` ->
        `target:log tokens:lost tokens:since_ms`."""
        return f"{self.prefix}:live:sums"

    @property
    def wake(self) -> str:
        """Pub/sub channel: what was released, as JSON: `worker` with its `tokens`, `attempts` and `live` tokens, or
        `line`."""
        return f"{self.prefix}:wake"

    @property
    def workers(self) -> str:
        """Sorted set: worker id -> lease expiry in ms of Redis TIME."""
        return f"{self.prefix}:w"

    def lease(self, worker_id: str) -> str:
        """String: the worker's lease document, JSON (`roost.contract.lease.WorkerLease`)."""
        return f"{self.prefix}:w:{worker_id}:lease"

    def residency(self, worker_id: str) -> str:
        """Hash, as the worker publishes it: session name -> tokens cached on its device; `warm_field` of the name ->
        tokens cached behind those, in host memory."""
        return f"{self.prefix}:w:{worker_id}:resident"

    def drain(self, worker_id: str) -> str:
        """String: since when, in ms of Redis TIME, the worker has to drain. It is absent when the worker need not."""
        return f"{self.prefix}:w:{worker_id}:drain"

    def mover(self, worker_id: str) -> str:
        """String with a time to live: the gateway that moves the sessions of a worker that is about to drain, or
        `done` when what is left there cannot be moved."""
        return f"{self.prefix}:w:{worker_id}:mover"


MOVES_DONE = "done"
"""What the key of a worker's mover holds when there is nothing more to move."""
WORKER_RULES = (
    "~roost:{*}:w ~roost:{*}:w:* resetchannels -@all +@connection -@dangerous +time +multi +exec "
    "+zadd +zrange +zrem +zremrangebyscore +get +set +exists +del +pexpireat +hset +hdel +hlen"
)
"""ACL rules for the user of Redis that workers have: the keys and commands of `roost.store.leases`, and no scripts.

A Redis Cluster needs `+cluster|slots` too.
"""
POOLS = "roost:pools"
"""Set: the names of all pools with a document. It carries no hash tag and is only used alone."""


def kept_conversation(tenant: str, conversation_id: str) -> str:
    """Hash with a time to live: `version` and `body` of a conversation that a client has created
    (`roost.store.kept_conversations`). It belongs to no pool: which one a step runs in, its request says."""
    return f"roost:{{tenant:{tenant}}}:conversation:{conversation_id}"
