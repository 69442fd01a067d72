"""What forks share is kept while one of them needs it, and no longer; a fork itself writes next to nothing."""

from fork_driver import forked, heads, log_of, opened, why
from redis_servers import PATIENCE_SECONDS
from roost.contract.reasons import Reason
from roost.store.arguments import MOST_SHARED_LOGS
from roost.store.keys import PoolKeys
from roost.store.redis_store import connect
from store_driver import LONG_MS, POOL, TENANT, begin_request, commit_step
from store_world import Twice

KEYS = PoolKeys(POOL)
LONG_TEXT = "word " * 16_000


async def test_what_a_fork_needs_outlives_the_deletion_of_the_other(store, raw):
    parent_id = await opened(store, 3, labels={"a": "secret"})
    fork = await forked(store, parent_id, (await heads(store, parent_id))[1])
    await commit_step(store, fork.session_id, "ours")
    kept = await log_of(store, fork.session_id)
    await store.delete(parent_id, TENANT)
    assert await why(store.get(parent_id, TENANT)) is Reason.SESSION_NOT_FOUND
    assert (await store.log(parent_id, 1, 0, 9), await store.ids(parent_id, 1, 0, 9)) == ([], b"")
    assert await log_of(store, fork.session_id) == kept
    assert (await store.get(fork.session_id, TENANT)).system == fork.system
    assert raw.llen(KEYS.log(parent_id, 1)) == 2, "the step after the fork is gone"
    assert raw.strlen(KEYS.ids(parent_id, 1)) == 4 * fork.head.length
    assert set(raw.hkeys(KEYS.session(parent_id))) == {b"state", b"request", b"system", b"tools"}
    grandchild = await forked(store, fork.session_id, (await heads(store, fork.session_id))[0])
    await store.delete(fork.session_id, TENANT)
    assert (await log_of(store, grandchild.session_id))[0] == ["step-0"]
    await commit_step(store, grandchild.session_id, "theirs")
    await store.delete(grandchild.session_id, TENANT)
    assert content(raw) == {}


async def test_a_deletion_sent_again_answers_the_same_while_forks_live(store):
    parent_id = await opened(store, 1)
    fork = await forked(store, parent_id)
    store._link.script_runner = Twice(store._link.script_runner)
    assert await store.delete(parent_id, TENANT) == 2, "the epoch after the step's"
    assert await why(store.delete(parent_id, TENANT)) is Reason.SESSION_NOT_FOUND
    assert await why(store.begin(begin_request(parent_id, "step-9"))) is Reason.SESSION_NOT_FOUND
    assert [d.session_id for d in await store.list_sessions(POOL, TENANT, "", 9)] == [fork.session_id]


async def test_a_fork_is_deleted_without_a_trace_in_the_other(store, raw):
    parent_id = await opened(store, 2)
    before = content(raw)
    fork = await forked(store, parent_id)
    await commit_step(store, fork.session_id, "ours")
    await store.delete(fork.session_id, TENANT)
    assert content(raw) == before
    assert len((await log_of(store, parent_id))[0]) == 2


async def test_the_steps_of_a_fork_keep_what_it_needs_from_expiring(store, raw):
    parent_id = await opened(store, 2, ttl_ms=60_000, system="Be kind.")
    fork = await forked(store, parent_id)
    await commit_step(store, fork.session_id, "ours", ttl_ms=LONG_MS)
    needed = {KEYS.session(parent_id), KEYS.family(parent_id)}
    needed |= {of(parent_id, 1) for of in (KEYS.log, KEYS.ids, KEYS.forks)}
    own = {KEYS.session(fork.session_id), KEYS.steps(fork.session_id)}
    own |= {of(fork.session_id, 1) for of in (KEYS.log, KEYS.ids)}
    assert lasting(raw) == needed | own
    await commit_step(store, parent_id, "theirs", ttl_ms=60_000)
    assert lasting(raw) == needed | own

    raw.hset(KEYS.session(parent_id), "expires", 1)  # as if the minute were over
    raw.delete(KEYS.steps(parent_id))
    for call in (store.get(parent_id, TENANT), store.begin(begin_request(parent_id, "x")), forked(store, parent_id)):
        assert await why(call) is Reason.SESSION_NOT_FOUND
    assert [d.session_id for d in await store.list_sessions(POOL, TENANT, "", 9)] == [fork.session_id]
    assert raw.zcard(KEYS.tenant_sessions(TENANT)) == 1
    assert len((await log_of(store, fork.session_id))[0]) == 3
    await commit_step(store, fork.session_id, "more", ttl_ms=0)
    assert {raw.pttl(key) for key in content(raw)} == {-1}
    assert (await store.get(fork.session_id, TENANT)).system == "Be kind."
    await store.delete(fork.session_id, TENANT)
    assert content(raw) == {}


async def test_a_fork_that_expires_lets_go_of_what_it_needed(store, raw):
    parent_id = await opened(store, 2, ttl_ms=60_000)
    fork = await forked(store, parent_id)
    await commit_step(store, fork.session_id, "ours", ttl_ms=0)
    await store.delete(parent_id, TENANT)
    assert {raw.pttl(key) for key in content(raw)} == {-1}
    await commit_step(store, fork.session_id, "more", ttl_ms=LONG_MS)
    assert all(60_000 < raw.pttl(key) <= LONG_MS for key in content(raw))


async def test_a_log_that_forks_do_not_need_any_more_expires_with_its_session(store, raw):
    parent_id = await opened(store, 1, ttl_ms=60_000)
    fork = await forked(store, parent_id)
    await commit_step(store, fork.session_id, "ours", ttl_ms=LONG_MS)
    assert lasting(raw)
    await store.delete(fork.session_id, TENANT)
    assert not lasting(raw)


async def test_a_long_chain_of_forks_shares_few_logs_and_loses_nothing(store, raw):
    session_id, steps, ids = await opened(store, 2), ["step-0", "step-1"], [0, 0, 4, 5, 1, 1, 4, 5]
    for number in range(2 * MOST_SHARED_LOGS + 3):
        fork = (await forked(store, session_id)).session_id
        await commit_step(store, fork, f"fork-{number}", prompt=(number,), output=(7,))
        steps, ids = [*steps, f"fork-{number}"], [*ids, number, 7]
        assert await log_of(store, fork) == (steps, ids)
        assert raw.hget(KEYS.session(fork), "base").count(b"|") <= MOST_SHARED_LOGS
        await store.delete(session_id, TENANT)
        session_id = fork
    assert await log_of(store, session_id) == (steps, ids)
    await store.delete(session_id, TENANT)
    assert content(raw) == {}


async def test_a_long_part_of_a_log_is_not_copied_for_short_ones(store, raw):
    session_id, copied = await opened(store, 1), 0
    for number in range(4 * MOST_SHARED_LOGS):
        session_id = (await forked(store, session_id)).session_id
        copied += raw.llen(KEYS.log(session_id, 1))
        assert raw.strlen(KEYS.ids(session_id, 1)) < 4 * 1000
        await commit_step(store, session_id, f"fork-{number}", prompt=tuple(range(1000 if number == 0 else 1)))
    assert copied < 2 * number
    assert len((await log_of(store, session_id))[0]) == number + 2


async def test_forking_a_hundred_thousand_tokens_writes_less_than_4_kb(store, raw):
    """Also when system text and tools are large, and when a fork shares parts of as many logs as it may."""
    session_id = await opened(store, system=LONG_TEXT)
    await commit_step(store, session_id, "long", prompt=tuple(range(100_000)))
    for number in range(MOST_SHARED_LOGS):
        before = size(raw)
        fork = await forked(store, session_id, labels={"branch": "main"})
        assert (fork.head.length, fork.system) == (100_002 + 5 * number, LONG_TEXT)
        assert size(raw) - before < 4096  # Redis counts a table twice while it grows
        await commit_step(store, fork.session_id, "next")
        session_id = fork.session_id


async def test_little_is_written_when_a_session_is_forked_or_deleted(redis_server):
    """To the append-only file, which the caller waits for."""
    store = await connect(redis_server.url, socket_timeout=PATIENCE_SECONDS)
    session_id = await opened(store)
    await commit_step(store, session_id, "long", prompt=tuple(range(10_000)))
    child_id = (await forked(store, session_id)).session_id
    await commit_step(store, child_id, "next")
    for call in (forked(store, child_id, labels={"branch": "main"}), store.delete(session_id, TENANT)):
        with redis_server.client() as client:
            before = client.info("persistence")["aof_current_size"]
            await call
            assert client.info("persistence")["aof_current_size"] - before < 2048
    await store.aclose()


async def test_a_fork_is_not_begun_when_redis_has_lost_what_it_shares(store, raw):
    parent_id = await opened(store, 1)
    for lost in (KEYS.ids(parent_id, 1), KEYS.log(parent_id, 1), KEYS.session(parent_id)):
        fork = await forked(store, parent_id)
        kept = raw.dump(lost)
        raw.delete(lost)
        assert await why(store.begin(begin_request(fork.session_id, "first"))) is Reason.SESSION_ROLLED_BACK
        assert await why(forked(store, fork.session_id)) is Reason.SESSION_ROLLED_BACK
        raw.restore(lost, 0, kept)


def content(raw) -> dict[str, set[bytes]]:
    """Keys of sessions, with the fields of hashes; without tombstones."""
    keys = {key.decode(): set(raw.hkeys(key)) if raw.type(key) == b"hash" else set() for key in raw.scan_iter("*:s:*")}
    return {key: fields for key, fields in keys.items() if fields != {b"state", b"request"}}


def lasting(raw) -> set[str]:
    """Keys of sessions that live for more than a minute."""
    return {key for key in content(raw) if raw.pttl(key) > 60_000}


def size(raw) -> int:
    """Bytes that all keys take."""
    return sum(raw.memory_usage(key, samples=0) for key in raw.scan_iter())
