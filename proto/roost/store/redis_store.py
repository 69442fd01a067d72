"""Session records, ledger and leases in Redis: `SessionStore` by one Lua script per call."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from roost.contract.heads import AttemptRef, Head
from roost.contract.lease import LEASE_TTL_SECONDS
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store import codec, health
from roost.store.arguments import (
    abort_args,
    accepted,
    account_keys,
    began,
    begin_args,
    commit_args,
    described,
    expected_args,
    extend_call,
    fork_call,
    migrate_args,
    migrated_steps,
    open_call,
    pool_keys,
    release_call,
    request_digest,
    reserve_call,
    reserved,
)
from roost.store.budgets import ExtendRequest, statuses_from_texts
from roost.store.entry import Reserved
from roost.store.fork_records import NewFork
from roost.store.grace import GRACE_SECONDS
from roost.store.keys import POOLS, PoolKeys
from roost.store.ledger import WorkerReader, read_residency, read_worker
from roost.store.link import RedisLink
from roost.store.records import (
    FIRST_GENERATION,
    AlreadyCommitted,
    Began,
    BeginRequest,
    CommitRequest,
    Descriptor,
    LogEntry,
    MigrateRequest,
    NewSession,
    RenewItem,
    Reservation,
)
from roost.store.redis_conversation_index import RedisConversationIndex
from roost.store.redis_detached import RedisDetachedSteps
from roost.store.redis_kept_conversations import RedisKeptConversations
from roost.store.redis_moves import RedisMoves
from roost.store.refusals import refused
from roost.store.repetition import repetition_from_text
from roost.store.residency import Residency
from roost.store.rules import AGING_MS, ID_BYTES, RESIDENCY_DELAY_MS
from roost.store.scripts import Arg, Call
from roost.store.service import NOTHING_DONE, Done
from roost.store.session_scripts import ANSWERS_LEARNED, SessionScripts, change_args
from roost.store.store_health import StoreHealth
from roost.store.wake import Wake
from roost.store.wakes import Wakes
from roost.store.worker_views import WorkerLook, WorkerView
from roost.store.working_set import ADAPT_MS

WATERMARK = 0.9
"""Part of `maxmemory` above which no new session is opened."""


async def connect(
    url: str,
    *,
    grace_ms: int = round(GRACE_SECONDS * 1000),
    aging_ms: int = AGING_MS,
    adapt_ms: int = ADAPT_MS,
    watermark: float = WATERMARK,
    connections: int = 64,
    socket_timeout: float = 2.0,
) -> "RedisStore":
    """Connects to `redis://`, `rediss://` or `unix://`, or to a cluster by `?cluster=true` in the query.

    `connections` bounds the calls under way at once; `socket_timeout` is in seconds and holds for each of four tries.
    Raises ValueError for another URL, StoreAwayError when Redis does not answer.
    """
    link = RedisLink.open(url, socket_timeout=socket_timeout, connections=connections, grace_seconds=grace_ms / 1000)
    store = RedisStore(link, aging_ms=aging_ms, adapt_ms=adapt_ms, watermark=watermark)
    try:
        await link.run("PING")
    except BaseException:
        await store.aclose()
        raise
    return store


class RedisStore:
    """`roost.store.interface.SessionStore` on Redis 6.2 or newer; see there for what each call does."""

    def __init__(
        self, link: RedisLink, *, aging_ms: int = AGING_MS, adapt_ms: int = ADAPT_MS, watermark: float = WATERMARK
    ) -> None:
        self._link = link
        self.conversations = RedisConversationIndex(link)
        self.kept_conversations = RedisKeptConversations(link, watermark)
        self._aging_ms = aging_ms
        self._adapt_ms = adapt_ms
        self._watermark = watermark
        self._workers = WorkerReader(link)
        self._wakes = Wakes(link.client.pubsub)
        self.detached = RedisDetachedSteps(link, self._wakes)
        self._scripts = SessionScripts(link)
        self.moves = RedisMoves(link, self._scripts)
        self._known_keys = self._scripts.known_keys
        self._run_id = ""

    def grace_seconds(self, pool: str) -> float:
        return self._link.shards.grace_seconds(PoolKeys(pool).workers)

    async def health(self) -> StoreHealth:
        checked = await health.check(self._link)
        if self._run_id:
            came_back = checked.run_id != self._run_id
        else:
            came_back = checked.uptime_seconds < LEASE_TTL_SECONDS
        if came_back:
            self._link.shards.begin_grace()
        self._run_id = checked.run_id
        return checked

    async def pools(self) -> list[str]:
        return sorted(name.decode() for name in await self._link.run("SMEMBERS", POOLS))

    async def pool_document(self, pool: str) -> dict[str, Any] | None:
        text = await self._link.run("GET", PoolKeys(pool).document)
        return codec.decode_document(text, f"document of pool {pool}")

    async def open(self, new: NewSession) -> Descriptor:
        async def write(erased: str) -> list[Any]:
            return accepted(await self._link.script("open", open_call(new, erased, self._watermark)))

        return await self._create(new, write)

    async def fork(self, new: NewFork) -> Descriptor:
        async def write(erased: str) -> list[Any]:
            call = fork_call(new, erased, self._watermark)
            return await self._scripts.run("fork", new.other, lambda: call, claims=False)

        return await self._create(new, write)

    async def _create(self, new: NewSession | NewFork, write: Callable[[str], Awaitable[list[Any]]]) -> Descriptor:
        """Writes a session, or returns the one that the same request opened before, if that is not gone. `write` runs
        the script with the name of one that is."""
        erased = ""
        for _ in range(ANSWERS_LEARNED):
            reply = await write(erased)
            if reply[0] != b"exists":
                self._scripts.learn(new.session_id, reply[2])
                return described(new.session_id, reply)
            erased = reply[1].decode()
            try:
                return await self.get(erased, new.tenant)
            except Refused:
                continue  # the session that the request opened has been erased: open another
        raise AssertionError(f"request {new.request_id} opens sessions that are gone at once")

    async def opened(self, pool: str, tenant: str, request_id: str) -> Descriptor | None:
        name = await self._link.run("GET", PoolKeys(pool).open_request(tenant, request_digest(request_id)))
        try:
            return await self.get(name.decode(), tenant) if name else None
        except Refused:
            return None

    async def get(self, session_id: str, tenant: str) -> Descriptor:
        descriptors = await self._scripts.get(pool_keys(session_id), tenant, [session_id])
        if not descriptors:
            raise refused(Reason.SESSION_NOT_FOUND)
        return descriptors[0]

    async def list_sessions(self, pool: str, tenant: str, after: str, count: int) -> list[Descriptor]:
        keys, descriptors = PoolKeys(pool), list[Descriptor]()
        index = keys.tenant_sessions(tenant)
        while len(descriptors) < count:
            low, wanted = f"({after}" if after else "-", count - len(descriptors)
            page = await self._link.run("ZRANGEBYLEX", index, low, "+", "LIMIT", 0, wanted)
            session_ids = [name.decode() for name in page]
            if session_ids:
                descriptors += await self._scripts.get(keys, tenant, session_ids)
            if len(session_ids) < wanted:
                break
            after = session_ids[-1]
        return descriptors

    async def begin(self, request: BeginRequest) -> Began | AlreadyCommitted:
        keys = pool_keys(request.session_id)
        args = begin_args(request, self._aging_ms, RESIDENCY_DELAY_MS, self._adapt_ms)
        accounts = account_keys(keys, request.rules)

        def call() -> Call:
            family = self._known_keys.shape(request.session_id).family(request.session_id)
            named = {"workers": keys.workers, "quarantine": keys.quarantine(family, request.digest), **accounts}
            known = self._known_keys.hosts(request.session_id, self._workers.known(keys.pool))
            hosts = [host for host in dict.fromkeys((*known, request.first_worker)) if host]
            published = [key for host in hosts for key in (keys.lease(host), keys.residency(host))]
            return Call(named, args, published, hosts)

        reply = await self._scripts.run("begin", request.session_id, call)
        now, flat = reply[1], reply[4 if reply[0] == b"committed" else 6]
        fields = codec.pairs(flat)
        descriptor = codec.decode_descriptor(request.session_id, fields, now)
        if descriptor.owner:
            self._known_keys.learn_host(request.session_id, descriptor.owner)
        if reply[0] == b"committed":
            return await self._committed(descriptor, generation=reply[2], index=reply[3])
        answer = began(descriptor, codec.decode_fenced(fields, now), reply)
        if answer.reserved:
            self._known_keys.learn_host(request.session_id, answer.reserved)
        return answer

    async def _committed(self, descriptor: Descriptor, generation: int, index: int) -> AlreadyCommitted:
        """The stored result of a step; a second and third round trip, for repeats only."""
        entries = await self.log(descriptor.session_id, generation, index, 1)
        if not entries:
            raise refused(Reason.SESSION_NOT_FOUND)  # erased since
        entry = entries[0]
        ids = await self.ids(descriptor.session_id, generation, entry.start, entry.head.length)
        at = entry.prompt_tokens * ID_BYTES
        return AlreadyCommitted(entry, descriptor, ids[:at], ids[at:], generation)

    async def reserve(self, reservation: Reservation) -> Reserved:
        call = reserve_call(reservation, self._aging_ms, self._adapt_ms)
        reply = accepted(await self._link.script("reserve", call))
        if reply[0] == b"reserved":
            self._known_keys.learn_host(reservation.session_id, reservation.worker_id)
        return reserved(reply)

    async def release(self, reservation: Reservation) -> None:
        await self._link.script("release", release_call(reservation))

    async def commit(self, request: CommitRequest) -> LogEntry:
        keys = account_keys(pool_keys(request.session_id), request.rules)
        call = Call(keys, commit_args(request, self._adapt_ms))
        reply = await self._scripts.run("commit", request.session_id, lambda: call)
        _, index, stored, statuses, repeats, counter = reply
        entry = codec.decode_entry(stored, index)
        repetition = repetition_from_text(repeats.decode())
        return replace(entry, budgets=statuses_from_texts(statuses), repetition=repetition, counter=int(counter))

    async def extend(self, request: ExtendRequest) -> Descriptor:
        call = extend_call(request)
        reply = await self._scripts.run("extend", request.session_id, lambda: call, claims=False)
        return described(request.session_id, reply)

    async def migrate(self, request: MigrateRequest) -> Descriptor:
        keys, args, steps = pool_keys(request.session_id), migrate_args(request), migrated_steps(request)

        def call() -> Call:
            new = self._known_keys.shape(request.session_id).generations + 1
            renewed = [of(request.session_id, new) for of in (keys.log, keys.ids, keys.forks)]
            return Call(args=args, more_keys=renewed, more_args=steps)

        reply = await self._scripts.run("migrate", request.session_id, call)
        self._scripts.learn(request.session_id, reply[2])
        return described(request.session_id, reply)

    async def abort(self, session_id: str, ref: AttemptRef, done: Done = NOTHING_DONE) -> int | None:
        counter = (await self._scripts.run("abort", session_id, lambda: Call(args=abort_args(ref, done))))[1]
        return int(counter) if counter else None

    async def quarantine(self, session_id: str, digest: bytes, ms: int) -> None:
        def call() -> Call:
            family = self._known_keys.shape(session_id).family(session_id)
            return Call({"quarantine": pool_keys(session_id).quarantine(family, digest)}, {"ms": ms})

        await self._scripts.run("quarantine", session_id, call, claims=False)

    async def renew(self, pool: str, items: Sequence[RenewItem], lease_ms: int) -> list[bool]:
        return await self._scripts.renew(PoolKeys(pool), items, lease_ms)

    async def hold(
        self, session_id: str, tenant: str, tool: str, expect_seconds: float, head: Head | None, generation: int = 0
    ) -> Descriptor:
        pause: dict[str, Arg] = {"tool": tool, "expect_seconds": expect_seconds}
        call = Call(args={**change_args(tenant), **pause, **expected_args(head, generation)})
        return described(session_id, await self._scripts.run("hold", session_id, lambda: call))

    async def evict(self, session_id: str, tenant: str) -> tuple[Descriptor, int]:
        call = Call(args=change_args(tenant))
        reply = await self._scripts.run("evict", session_id, lambda: call)
        return described(session_id, reply), int(reply[3])

    async def close(self, session_id: str, tenant: str) -> Descriptor:
        return described(
            session_id, await self._scripts.run("close", session_id, lambda: Call(args={"tenant": tenant}))
        )

    async def delete(self, session_id: str, tenant: str, head: Head | None = None) -> int:
        expected = expected_args(head, 0 if head is None else head.generation)
        call = Call(
            {"tenant_sessions": pool_keys(session_id).tenant_sessions(tenant)},
            {**change_args(tenant), **expected, "session_id": session_id},
        )
        return int((await self._scripts.run("delete", session_id, lambda: call))[1])

    async def ids(self, session_id: str, generation: int, start: int, end: int) -> bytes:
        return b"".join(await self._read(session_id, generation, "ids", start, end - start))

    async def log(self, session_id: str, generation: int, first: int, count: int) -> list[LogEntry]:
        stored = itertools.chain.from_iterable(await self._read(session_id, generation, "steps", first, count))
        return [codec.decode_entry(packed, index) for index, packed in enumerate(stored, first)]

    async def step_place(self, session_id: str, step_id: str) -> tuple[int, int] | None:
        stored = await self._link.run("HGET", pool_keys(session_id).steps(session_id), step_id)
        parts = stored.split(b":") if stored else ()
        return (int(parts[0]), int(parts[1])) if parts else None

    async def _read(self, session_id: str, generation: int, what: str, first: int, count: int) -> list[Any]:
        """Runs of a log's packed ids, or of its entries; none when the session or the generation is gone."""
        if count < 1 or generation < FIRST_GENERATION:
            return []
        call = Call(args={"what": what, "generation": generation, "first": first, "count": count})
        try:
            runs: list[Any] = (await self._scripts.run("read", session_id, lambda: call, claims=False))[1]
        except Refused:
            return []
        return runs

    async def workers(self, pool: str) -> list[WorkerView]:
        return await self._workers.read(pool)

    async def residency(self, pool: str, worker_ids: Sequence[str], session_ids: Sequence[str]) -> dict[str, Residency]:
        return await read_residency(self._link, pool, list(worker_ids), list(session_ids))

    async def look(self, pool: str, worker_id: str, session_id: str) -> WorkerLook:
        return await read_worker(self._link, pool, worker_id, session_id, RESIDENCY_DELAY_MS)

    def wakes(self, pool: str) -> AsyncIterator[Wake]:
        return self._wakes.of(PoolKeys(pool).wake)

    async def aclose(self) -> None:
        await self._wakes.aclose()
        await self._link.aclose()
