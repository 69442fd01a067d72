"""A session's KV that is computed ahead of its next step, by the call `Rebuild`."""

from typing import Any

import grpc.aio
import pytest

from redis_servers import RedisServer
from roost.store.keys import PoolKeys
from roost.v1 import worker_service_pb2 as pb
from roost_worker.server.rebuilds import MOST_AT_ONCE
from worker_harness import POOL, SECRET, SESSION, WAIT, Ledger, World, reason

IDS = list(range(3, 40))


class RebuildCall:
    """One call, driven message by message."""

    def __init__(self, world: World) -> None:
        self._call = world.stub.Rebuild(metadata=(("roost-pool-secret", SECRET),), timeout=WAIT)

    async def start(self, world: World, ledger: Ledger, **changes: Any) -> None:
        fields = {"session": ledger.ref(), "tenant": "tenant", "epoch": ledger.epoch}
        fields["model_revision"] = world.server.shell.identity.revision
        await self._call.write(pb.RebuildRequest(start=pb.RebuildStart(**{**fields, **changes})))

    async def send_history(self, history: pb.History) -> None:
        await self._call.write(pb.RebuildRequest(history=history))

    async def read(self) -> pb.RebuildResponse:
        return await self._call.read()

    async def finish(self, ledger: Ledger) -> pb.Rebuilt:
        """Sends the history that is asked for, and waits for the end."""
        while True:
            response = await self.read()
            if response is grpc.aio.EOF:
                await self._call  # raises
            if response.WhichOneof("message") == "rebuilt":
                return response.rebuilt
            await self.send_history(ledger.history(response.need_history.from_token))

    async def fail(self) -> grpc.aio.AioRpcError:
        """Reads to the end, which must be an error."""
        try:
            while await self.read() is not grpc.aio.EOF:
                pass
            await self._call
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError("the call ended well")

    def break_off(self) -> None:
        self._call.cancel()


async def begun(world: World, ledger: Ledger, **changes: Any) -> RebuildCall:
    call = RebuildCall(world)
    await call.start(world, ledger, **changes)
    return call


def committed(session: str = SESSION) -> Ledger:
    """A session that this worker has never seen."""
    ledger = Ledger(session)
    ledger.commit(IDS[:20])
    ledger.commit(IDS[20:])
    ledger.epoch = 5
    return ledger


async def test_a_step_after_a_rebuild_computes_its_own_prompt_only(world: World, redis_server: RedisServer) -> None:
    ledger = committed()
    rebuilt = await (await begun(world, ledger)).finish(ledger)
    assert (rebuilt.cached_tokens, rebuilt.prefilled_tokens) == (0, len(IDS))
    with redis_server.client() as client:
        published = client.hgetall(PoolKeys(POOL).residency(world.server.worker_id))
    assert published == {SESSION.encode(): str(len(IDS)).encode()}, "published before the call ends"
    step = await world.step(ledger)
    assert step.finished.cached_tokens == len(IDS)


async def test_a_rebuild_computes_only_what_is_missing(world: World) -> None:
    ledger = committed()
    await (await begun(world, ledger)).finish(ledger)
    ledger.commit(range(50, 70))
    rebuilt = await (await begun(world, ledger)).finish(ledger)
    assert (rebuilt.cached_tokens, rebuilt.prefilled_tokens) == (len(IDS), 20)


async def test_a_step_of_the_session_ends_its_rebuild(world: World) -> None:
    ledger = committed()
    call = await begun(world, ledger)
    response = await call.read()
    world.gate.close()
    await call.send_history(ledger.history(response.need_history.from_token))
    await world.gate.reached()
    step = await world.begin(ledger)
    assert reason(await call.fail()) == "ATTEMPT_FENCED"
    world.gate.open()
    await step.until("finished")
    assert step.finished.cached_tokens >= 32, "two blocks were computed by then"
    await world.commit(ledger, step)


async def test_a_rebuild_whose_call_breaks_leaves_nothing_running(world: World) -> None:
    ledger = committed()
    call = await begun(world, ledger)
    response = await call.read()
    world.gate.close()
    await call.send_history(ledger.history(response.need_history.from_token))
    await world.gate.reached()
    call.break_off()
    world.gate.open()
    rebuilt = await (await begun_when_free(world, ledger)).finish(ledger)
    assert rebuilt.cached_tokens + rebuilt.prefilled_tokens == len(IDS)


async def begun_when_free(world: World, ledger: Ledger) -> RebuildCall:
    while world.server.shell.rebuilds:
        await world.state()
    return await begun(world, ledger)


async def test_a_worker_rebuilds_few_sessions_at_once(world: World) -> None:
    others = [committed(SESSION[:-1] + letter) for letter in "abc"[:MOST_AT_ONCE]]
    calls = [await begun(world, other) for other in others]
    for call in calls:
        await call.read()
    refused = await (await begun(world, committed())).fail()
    assert (refused.code(), reason(refused)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    for call, other in zip(calls, others, strict=True):
        await call.send_history(other.history(0))
        await call.finish(other)
    await (await begun(world, ledger := committed())).finish(ledger)


async def test_a_session_that_a_step_runs_for_is_not_rebuilt(world: World) -> None:
    world.gate.close()
    ledger = Ledger()
    running = await world.begin(ledger)
    await running.until("accepted")
    known = committed()
    assert reason(await (await begun(world, known)).fail()) == "ATTEMPT_FENCED"
    running.break_off()


async def test_a_rebuild_of_an_older_epoch_is_refused(world: World) -> None:
    ledger = Ledger()
    await world.step(ledger)
    assert reason(await (await begun(world, ledger, epoch=0)).fail()) == "ATTEMPT_FENCED"


async def test_a_history_of_another_log_is_refused(world: World) -> None:
    ledger, other = committed(), Ledger()
    other.commit(range(100, 100 + len(IDS)))
    call = await begun(world, ledger)
    await call.read()
    await call.send_history(other.history(0))
    assert reason(await call.fail()) == "HEAD_MISMATCH"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_revision": "another"}, "MODEL_REVISION_MISMATCH"),
        ({"session": pb.SessionRef(session_id=SESSION, generation=1)}, "INVALID_REQUEST"),
        ({"session": pb.SessionRef()}, "INVALID_REQUEST"),
    ],
)
async def test_what_cannot_be_rebuilt_is_refused(world: World, changes: dict[str, Any], expected: str) -> None:
    assert reason(await (await begun(world, committed(), **changes)).fail()) == expected


async def test_a_log_that_fills_the_context_is_refused(world: World) -> None:
    ledger = Ledger()
    ledger.commit([7] * world.server.shell.limit)
    assert reason(await (await begun(world, ledger)).fail()) == "STEP_TOO_LONG"


async def test_a_worker_that_stops_rebuilds_nothing(world: World) -> None:
    await world.server.drain()
    assert reason(await (await begun(world, committed())).fail()) == "WORKER_DRAINING"


AWAY = pb.Pause(seconds_ago=10.0, expect_seconds=60.0, tool="pytest")


async def begun_ahead(world: World, ledger: Ledger) -> RebuildCall:
    """A rebuild ahead of the session's return, of which the log has come and no batch has ended."""
    call = await begun(world, ledger, pause=AWAY, role="coder")
    response = await call.read()
    world.gate.close()
    await call.send_history(ledger.history(response.need_history.from_token))
    await world.gate.reached()
    return call


def outcomes(world: World) -> tuple[int, int, int]:
    """Tokens rebuilt ahead; of these, used and wasted."""
    ahead = world.server.shell.rebuilds.ahead
    return ahead.rebuilt, ahead.used, ahead.wasted


async def test_a_step_after_a_rebuild_ahead_says_what_it_owes_to_it(world: World) -> None:
    ledger = committed()
    call = await begun(world, ledger, pause=AWAY)
    rebuilt = await call.finish(ledger)
    assert (rebuilt.cached_tokens, rebuilt.prefilled_tokens) == (0, len(IDS))
    state = await world.state()
    assert [session.held for session in state.sessions] == [False], "the shell was sent no hold"
    assert world.server.shell.stats.held == 1
    assert outcomes(world) == (len(IDS), 0, 0)
    step = await world.step(ledger)
    assert step.accepted.ahead_tokens == step.finished.ahead_tokens == len(IDS)
    assert outcomes(world) == (len(IDS), len(IDS), 0)
    again = await world.step(ledger)
    assert again.finished.ahead_tokens == 0


async def test_what_is_evicted_before_the_session_returns_is_wasted(world: World) -> None:
    ledger = committed()
    await (await begun(world, ledger, pause=AWAY)).finish(ledger)
    await world.call("Evict", pb.EvictRequest(session_id=SESSION, epoch=ledger.epoch + 1))
    assert outcomes(world) == (len(IDS), 0, len(IDS))


async def test_any_step_ends_a_rebuild_ahead(world: World) -> None:
    ledger, other = committed(), Ledger(SESSION[:-1] + "y")
    call = await begun_ahead(world, ledger)
    step = await world.begin(other)
    ended = await call.fail()
    assert (ended.code(), reason(ended)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    world.gate.open()
    await step.until("finished")
    await world.commit(other, step)
    begin = await world.begin(ledger)
    await begin.until("finished")
    assert begin.finished.ahead_tokens == begin.finished.cached_tokens > 0, "what was computed by then"
    rebuilt, used, wasted = outcomes(world)
    assert (used, wasted) == (begin.finished.cached_tokens, rebuilt - begin.finished.cached_tokens)


async def test_a_rebuild_for_a_worker_that_drains_ends_one_ahead(world: World) -> None:
    ahead, moved = committed(), committed(SESSION[:-1] + "y")
    call = await begun_ahead(world, ahead)
    move = await begun(world, moved)
    assert reason(await call.fail()) == "QUEUE_FULL"
    world.gate.open()
    rebuilt = await move.finish(moved)
    assert rebuilt.cached_tokens + rebuilt.prefilled_tokens == len(IDS)


async def test_a_worker_that_has_a_step_rebuilds_nothing_ahead(world: World) -> None:
    assert world.server.shell.lease().idle
    world.gate.close()
    running = await world.begin(Ledger(SESSION[:-1] + "y"))
    await running.until("accepted")
    assert not world.server.shell.lease().idle
    assert reason(await (await begun(world, committed(), pause=AWAY)).fail()) == "QUEUE_FULL"
    running.break_off()
