"""What a worker asks of the log, over the wire: nothing when it can verify the head, else from where it can."""

from collections.abc import Sequence

import grpc
import pytest

from redis_servers import RedisServer
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from worker_harness import POOL, Ledger, Stream, World, reason, scripted_world, worker_config


async def need_history(stream: Stream) -> int:
    """What the worker asks for; -1 when it accepts at once."""
    message = await stream.read()
    assert message is not None
    return message.need_history.from_token if message.WhichOneof("message") == "need_history" else -1


async def finish(world: World, ledger: Ledger, stream: Stream) -> None:
    await stream.until("finished")
    assert world.runner.contexts[-1] == [*ledger.ids, *stream.accepted.prompt_token_ids]
    await world.commit(ledger, stream)


async def known_session(world: World, steps: int = 2) -> Ledger:
    world.script(1, "ok")
    ledger = Ledger()
    for _ in range(steps):
        await world.step(ledger)
    return ledger


def elsewhere(ledger: Ledger, *steps: Sequence[int]) -> None:
    """Steps that another worker served."""
    for step in steps:
        ledger.commit(step)


async def test_an_unknown_log_is_asked_from_the_start_in_any_number_of_runs(world: World):
    world.script(1, "ok")
    ledger = Ledger()
    elsewhere(ledger, [10, 11, 12], [13, 14])
    stream = await world.begin(ledger)
    assert await need_history(stream) == 0
    await stream.send(history=ledger.history(0, 2, last=False))
    await stream.send(history=ledger.history(2, 2, last=False))
    await stream.send(history=ledger.history(2))
    await finish(world, ledger, stream)
    assert await need_history(await world.begin(ledger)) == -1


async def test_after_an_eviction_the_whole_log_is_asked_for(world: World):
    ledger = await known_session(world)
    await world.call("Evict", evict(ledger.session_id, 100))
    ledger.epoch = 100
    stream = await world.begin(ledger)
    assert await need_history(stream) == 0
    await stream.send(history=ledger.history(0))
    await finish(world, ledger, stream)


def evict(session_id: str, epoch: int):
    return pb.EvictRequest(session_id=session_id, epoch=epoch)


async def test_a_session_that_fell_out_by_pressure_is_asked_for(redis_server: RedisServer, tmp_path):
    async with scripted_world(worker_config(redis_server.url, tmp_path), blocks=9) as world:
        ledger = await known_session(world, steps=1)
        for number in range(3):
            await world.step(Ledger(f"{POOL}/0{number}hzzzzzzzzzzzzzzzzzzzzzzzz"), "x" * 60)
        assert ledger.session_id not in [session.session_id for session in (await world.state()).sessions]
        stream = await world.begin(ledger)
        assert await need_history(stream) == 0
        await stream.send(history=ledger.history(0))
        await finish(world, ledger, stream)


@pytest.mark.parametrize("ends", [True, False])
async def test_steps_served_elsewhere_are_asked_from_the_last_known_boundary(world: World, ends: bool):
    ledger = await known_session(world)
    known = len(ledger.ids)
    elsewhere(ledger, [10, 11], [12])
    stream = await world.begin(ledger)
    assert await need_history(stream) == known
    await stream.send(history=ledger.history(known, ends=ends))
    if not ends:  # two missing links cannot be told apart from a divergence
        assert await need_history(stream) == 0
        await stream.send(history=ledger.history(0, ends=False))
    await finish(world, ledger, stream)


async def test_one_missing_step_is_verified_without_step_ends(world: World):
    ledger = await known_session(world)
    known = len(ledger.ids)
    elsewhere(ledger, [10, 11])
    stream = await world.begin(ledger)
    assert await need_history(stream) == known
    await stream.send(history=ledger.history(known, ends=False))
    await finish(world, ledger, stream)


async def test_a_log_that_was_rolled_back_to_a_boundary_is_served_without_history(world: World):
    ledger = await known_session(world, steps=3)
    shorter = Ledger()
    elsewhere(shorter, ledger.ids[: ledger.ends[0]])
    shorter.epoch = ledger.epoch
    stream = await world.begin(shorter)
    assert await need_history(stream) == -1
    await finish(world, shorter, stream)


async def test_a_log_that_was_rolled_back_and_diverged_is_never_mixed_with_the_old_one(world: World):
    ledger = await known_session(world)
    other = Ledger()
    elsewhere(other, ledger.ids[: ledger.ends[0]], [10, 11], [12, 13, 14] * 20)
    other.epoch = ledger.epoch
    stream = await world.begin(other)
    assert await need_history(stream) == ledger.ends[1]
    await stream.send(history=other.history(ledger.ends[1]))
    assert await need_history(stream) == 0
    await stream.send(history=other.history(0))
    await finish(world, other, stream)


async def test_a_step_whose_commit_was_not_heard_is_known_under_its_head(world: World):
    world.script(1, "ok")
    ledger = Ledger()
    stream = await world.begin(ledger)
    await stream.until("finished")
    ledger.commit([*stream.accepted.prompt_token_ids, *stream.out.ids])
    stream.break_off()
    again = await world.begin(ledger)
    assert await need_history(again) == -1
    await finish(world, ledger, again)


async def test_a_step_that_was_never_committed_is_not_in_the_next_one(world: World):
    ledger = await known_session(world, steps=1)
    stream = await world.begin(ledger)
    await stream.until("finished")
    stream.break_off()
    again = await world.begin(ledger)
    assert await need_history(again) == -1
    await finish(world, ledger, again)


@pytest.mark.parametrize(
    ("change", "code", "why"),
    [
        ({"offset": 1}, grpc.StatusCode.FAILED_PRECONDITION, "HEAD_MISMATCH"),
        ({"token_ids": b"abc"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ({"token_ids": b"\1\0\0\0" * 5}, grpc.StatusCode.FAILED_PRECONDITION, "HEAD_MISMATCH"),
        ({"token_ids": b"\1\0\0\0"}, grpc.StatusCode.FAILED_PRECONDITION, "HEAD_MISMATCH"),
        ({"step_ends": [2, 1]}, grpc.StatusCode.FAILED_PRECONDITION, "HEAD_MISMATCH"),
    ],
)
async def test_history_that_cannot_be_the_heads_is_refused(world: World, change, code, why):
    ledger = Ledger()
    elsewhere(ledger, [10, 11, 12], [13, 14])
    stream = await world.begin(ledger)
    assert await need_history(stream) == 0
    run = ledger.history(0)
    for name, value in change.items():
        run.ClearField(name)
        run.MergeFrom(type(run)(**{name: value}))
    await stream.send(history=run)
    error = await stream.fail()
    assert (error.code(), reason(error)) == (code, why)
    assert len(world.server.shell.attempts) == 0


async def test_a_cancel_instead_of_history_ends_the_attempt(world: World):
    ledger = Ledger()
    elsewhere(ledger, [10, 11, 12])
    stream = await world.begin(ledger)
    await need_history(stream)
    await stream.send(cancel=pb.Cancel())
    assert (await stream.fail()).code() is grpc.StatusCode.CANCELLED
    assert len(world.server.shell.attempts) == 0


async def test_another_generation_of_a_session_shares_no_log_with_the_first(world: World):
    ledger = await known_session(world, steps=1)
    stream = world.stream()
    await stream.send(
        start=pb.Start(
            attempt=ledger.next_attempt(),
            session=pb.SessionRef(session_id=ledger.session_id, generation=2, head=ledger.head),
            tenant="tenant",
            messages=[api.Message(role=api.MESSAGE_ROLE_USER, content="hi")],
            sampling=api.Sampling(seed=1),
        )
    )
    assert await need_history(stream) == 0
