"""A worker that is asked to drain first serves the sessions that it holds, while they are moved."""

import pytest

from redis_servers import RedisServer
from roost.store.keys import MOVES_DONE, PoolKeys
from roost.v1 import worker_service_pb2 as pb
from roost_worker.server.drain import PATIENCE_SECONDS, Drain, Mover, Phase
from worker_harness import POOL, SESSION, Ledger, World, reason

KEYS = PoolKeys(POOL)
SECONDS = 30.0


def leaving(holds_sessions: bool = True) -> Drain:
    drain = Drain(SECONDS)
    drain.advance(0.0, asked=True, holds_sessions=holds_sessions, mover=Mover.NONE)
    return drain


def phase(drain: Drain, now: float, mover: Mover = Mover.MOVES, *, asked: bool = True, holds: bool = True) -> Phase:
    return drain.advance(now, asked=asked, holds_sessions=holds, mover=mover)


def test_a_worker_without_sessions_drains_at_once() -> None:
    assert leaving(holds_sessions=False).phase is Phase.DRAINING


def test_it_leaves_until_its_last_session_has_moved() -> None:
    drain = leaving()
    assert [phase(drain, now) for now in (1.0, 5.0, 9.0)] == [Phase.LEAVING] * 3
    assert phase(drain, 10.0, holds=False) is Phase.DRAINING


def test_it_leaves_for_a_share_of_the_drain_time_only() -> None:
    drain = leaving()
    seconds = [1.0 * second for second in range(1, 16)]
    assert [phase(drain, now) for now in seconds] == [Phase.LEAVING] * 14 + [Phase.DRAINING]


@pytest.mark.parametrize("moved_until", [0.0, 3.0])
def test_it_waits_no_longer_for_a_gateway_than_its_patience(moved_until: float) -> None:
    drain = leaving()
    if moved_until:
        phase(drain, moved_until)
    assert phase(drain, moved_until + PATIENCE_SECONDS - 0.1, Mover.NONE) is Phase.LEAVING
    assert phase(drain, moved_until + PATIENCE_SECONDS, Mover.NONE) is Phase.DRAINING


def test_it_drains_when_what_is_left_cannot_be_moved() -> None:
    assert phase(leaving(), 0.5, Mover.DONE) is Phase.DRAINING


def test_it_does_not_go_back_to_leaving() -> None:
    drain = leaving(holds_sessions=False)
    assert phase(drain, 1.0) is Phase.DRAINING


def test_it_serves_again_when_the_request_is_taken_back() -> None:
    drain = leaving()
    assert phase(drain, 20.0, asked=False) is Phase.SERVING
    assert phase(drain, 21.0) is Phase.LEAVING, "a new request has all of its time"


async def test_a_leaving_worker_serves_its_own_sessions_until_they_are_moved(
    world: World, redis_server: RedisServer
) -> None:
    own, other, worker_id = Ledger(), Ledger(SESSION[:-1] + "a"), world.server.worker_id
    await world.step(own)
    with redis_server.client() as client:
        client.set(KEYS.mover(worker_id), "gateway", px=60_000)
        client.set(KEYS.drain(worker_id), 1)
        await world.server._publish()
        state = await world.state()
        assert (state.leaving, state.draining) == (True, False)
        assert reason(await (await world.begin(other)).fail()) == "WORKER_DRAINING"
        assert reason(await (await world.begin(None)).fail()) == "WORKER_DRAINING"
        await world.step(own)
        await world.call("Evict", pb.EvictRequest(session_id=own.session_id, epoch=own.epoch + 1))
        state = await world.state()
        assert (state.leaving, state.draining) == (False, True)
        assert reason(await (await world.begin(own)).fail()) == "WORKER_DRAINING"


async def test_a_worker_drains_when_gateways_say_that_the_rest_cannot_be_moved(
    world: World, redis_server: RedisServer
) -> None:
    await world.step(Ledger())
    with redis_server.client() as client:
        client.set(KEYS.mover(world.server.worker_id), MOVES_DONE, px=60_000)
        client.set(KEYS.drain(world.server.worker_id), 1)
        await world.server._publish()
    assert (await world.state()).draining
