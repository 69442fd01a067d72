"""A step whose text cannot fit is refused by the gateway; what may fit goes to a worker."""

import grpc
import pytest

from gateway_driver import POOL, Rig, World, fault, publish_pool, step_request, world
from redis_servers import RedisServer
from roost.contract.lease import fewest_tokens
from roost.contract.reasons import Reason
from roost.grpc_errors import details_of
from roost.v1 import session_service_pb2 as pb

CONTEXT = 2048
"""Of the pool under test."""
TOO_LONG = (grpc.StatusCode.INVALID_ARGUMENT, Reason.STEP_TOO_LONG, None)


async def _bound(w: World, most: int) -> None:
    """The worker says that a token stands for so many bytes at most."""
    w.worker.max_bytes_per_token = most
    await w.worker.publish()
    await w.gateway.life.fleet.workers.refresh(POOL)


async def _refusal(w: World, request: pb.StepRequest) -> grpc.aio.AioRpcError:
    before = len(w.worker.starts)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await w.caller.step(request)
    assert fault(error.value) == TOO_LONG
    assert len(w.worker.starts) == before
    return error.value


async def test_text_that_cannot_fit_reaches_no_worker(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        await _bound(w, 2)
        session = await w.caller.open()
        error = await _refusal(w, step_request(session, text="é" * CONTEXT))
        assert "this step's 4096 bytes of messages at least 2048" in (error.details() or "")
        figures = {"log_tokens": "0", "prompt_tokens": "2048", "limit_tokens": str(CONTEXT)}
        assert figures.items() <= details_of(error).metadata.items()
        session = await w.caller.open()
        assert (await w.caller.step(step_request(session, text="é" * (CONTEXT - 1)))).committed is not None


async def test_the_log_counts_exactly(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        await _bound(w, 2)
        refused, served = [await w.caller.open() for _ in range(2)]
        for session in (refused, served):
            log = await w.caller.step(step_request(session, "s1"))
        assert log.committed is not None
        left = CONTEXT - log.committed.head.length
        await _refusal(w, step_request(refused, "s2", text="xx" * left))
        assert (await w.caller.step(step_request(served, "s2", text="xx" * (left - 1)))).committed is not None


async def test_all_messages_of_a_step_count(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        await _bound(w, 2)
        session = await w.caller.open()
        half = pb.Message(role=pb.MESSAGE_ROLE_USER, content="x" * CONTEXT)
        await _refusal(w, step_request(session, messages=[half, half]))


async def test_the_limit_of_a_session_counts_as_the_context_does(rig: Rig) -> None:
    publish_pool(rig.redis, sessions={"maxTokens": 100})
    worker = await rig.worker()
    server = await rig.gateway()
    w = World(rig, worker, server, rig.caller(server))
    await _bound(w, 2)
    session = await w.caller.open()
    await _refusal(w, step_request(session, text="x" * 200))
    session = await w.caller.open()
    assert (await w.caller.step(step_request(session, text="x" * 198))).committed is not None


async def test_without_a_bound_the_worker_decides(redis_server: RedisServer) -> None:
    """Older workers say nothing."""
    async with world(redis_server) as w:
        session = await w.caller.open()
        assert (await w.caller.step(step_request(session, text="x" * 100 * CONTEXT))).committed is not None


async def test_a_committed_step_is_answered_whatever_the_limit_is_now(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        session, text = await w.caller.open(), "x" * 2 * CONTEXT
        first = await w.caller.step(step_request(session, text=text))
        await _bound(w, 2)
        again = await w.caller.step(step_request(session, text=text))
        assert again.committed is not None
        assert first.committed is not None
        assert again.committed.head == first.committed.head


async def test_the_bound_is_that_of_the_workers_who_may_serve_the_step(rig: Rig) -> None:
    worker = await rig.worker(revision="rev-1")
    other = await rig.worker("null-2", revision="rev-2")
    workers = (await rig.gateway()).life.fleet.workers
    for number, (first, second, bounds) in enumerate([(2, 300, (2, 300, 300)), (2, 0, (2, 0, 0)), (0, 0, (0, 0, 0))]):
        worker.max_bytes_per_token, other.max_bytes_per_token = first, second
        await worker.publish()
        await other.publish()
        await workers.refresh(POOL)
        revisions = ("rev-1", "rev-2", "")
        assert tuple(workers.max_bytes_per_token(POOL, revision) for revision in revisions) == bounds, number
    assert workers.max_bytes_per_token(POOL, "rev-3") == 0
    assert workers.max_bytes_per_token("test/other", "") == 0


@pytest.mark.parametrize(("size", "most", "fewest"), [(0, 4, 0), (1, 4, 1), (8, 4, 2), (9, 4, 3), (9, 0, 0)])
def test_the_fewest_tokens_of_a_text(size: int, most: int, fewest: int) -> None:
    assert fewest_tokens(size, most) == fewest
