"""A step survives gateways that die, and tells its caller the truth when it cannot go on."""

import asyncio
from collections.abc import Sequence

import grpc
import pytest

from roost import Committed, Delta, Event, Head, Restarted, RetryConfig, Started, errors
from roost.contract.reasons import Reason
from scripted_gateway import (
    BREAK,
    Action,
    Hang,
    Refuse,
    ScriptedGateway,
    attempt,
    committed,
    delta,
    restarted,
    session_on,
    started,
    text_of,
)


async def play(*scripts: Sequence[Action]) -> tuple[list[Event], ScriptedGateway]:
    """One gateway plays the scripts in turn; the step's events, and the gateway."""
    async with ScriptedGateway(*scripts) as gateway, session_on(gateway) as session:
        return [event async for event in session.step("hi", max_tokens=9)], gateway


async def test_another_gateway_continues_from_where_the_stream_broke() -> None:
    first = ScriptedGateway([started(1), delta("héllo "), delta("wör", 7), BREAK])
    second = ScriptedGateway([started(2, "v"), delta("ld", 11, epoch=2), committed("héllo wörld")])
    async with first, second, session_on(first, second) as session:
        events = [event async for event in session.step("hi", step_id="s1")]
    assert text_of(events) == "héllo wörld"
    assert [event.worker for event in events if isinstance(event, Started)] == ["w", "v"]
    assert isinstance(events[-1], Committed)
    assert not first.steps[0].HasField("received")
    cursor = second.steps[0].received
    assert (cursor.attempt, cursor.tokens, cursor.text_bytes) == (attempt(1), 11, 11)
    assert (first.steps[0].step_id, first.steps[0].messages) == (second.steps[0].step_id, second.steps[0].messages)


async def test_the_cursor_names_the_newest_attempt() -> None:
    _, gateway = await play(
        [started(1), delta("a"), BREAK], [started(2), delta("b", 1, epoch=2), BREAK], [committed("ab")]
    )
    assert [step.received.attempt.epoch for step in gateway.steps] == [0, 1, 2]


async def test_output_that_comes_twice_is_told_once() -> None:
    events, _ = await play(
        [started(1), delta("héll"), BREAK],
        [started(2), delta("héll", epoch=2), delta("éllo", 1, epoch=2), delta("o!", 5, epoch=2), committed("héllo!")],
    )
    pieces = [event for event in events if isinstance(event, Delta)]
    assert [piece.text for piece in pieces] == ["héll", "o", "!"]
    assert [piece.token_offset for piece in pieces] == [0, 5, 6]


async def test_a_gap_is_an_error() -> None:
    with pytest.raises(errors.StreamError, match="2 to 3"):
        await play([started(1), delta("ab"), delta("d", 3)])


async def test_output_missing_at_the_commit_is_an_error() -> None:
    with pytest.raises(errors.StreamError, match="3 tokens, but 2"):
        await play([started(1), delta("ab"), committed("abc")])


async def test_restarted_voids_what_came_before() -> None:
    events, gateway = await play(
        [started(1), delta("wrong"), BREAK], [restarted(2), delta("right", epoch=2), committed("right")]
    )
    assert text_of(events) == "right"
    assert [type(event) for event in events] == [Started, Delta, Restarted, Delta, Committed]
    assert gateway.steps[1].received.tokens == 5


async def test_after_restarted_the_cursor_begins_anew() -> None:
    _, gateway = await play([delta("abc"), restarted(2), delta("x", epoch=2), BREAK], [committed("x")])
    assert gateway.steps[1].received.tokens == 1
    assert gateway.steps[1].received.attempt.epoch == 2


async def test_a_stream_that_ends_without_a_commit_is_a_broken_one() -> None:
    events, _ = await play([started(1), delta("a")], [delta("b", 1), committed("ab")])
    assert text_of(events) == "ab"


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_failure_that_no_gateway_explained_is_retried(code: grpc.StatusCode) -> None:
    events, _ = await play([delta("a"), Refuse(code)], [delta("b", 1), committed("ab")])
    assert text_of(events) == "ab"


@pytest.mark.parametrize(
    "reason", [Reason.STORE_UNAVAILABLE, Reason.COMMIT_UNKNOWN, Reason.NO_WORKER, Reason.WORKER_DRAINING]
)
async def test_unavailable_with_our_reason_is_retried(reason: Reason) -> None:
    refusal = Refuse(grpc.StatusCode.UNAVAILABLE, reason, 0.001)
    events, _ = await play([delta("a"), refusal], [delta("b", 1), committed("ab", replayed=True)])
    assert text_of(events) == "ab"


async def test_overload_with_our_reason_is_retried_on_the_same_gateway() -> None:
    refusal = Refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.QUEUE_FULL, 0.001)
    first, second = ScriptedGateway([refusal], [refusal], [delta("a"), committed("a")]), ScriptedGateway()
    async with first, second, session_on(first, second) as session:
        assert (await session.run("hi")).text == "a"
    assert (len(first.steps), len(second.steps)) == (3, 0)


@pytest.mark.parametrize(
    "refusal",
    [
        Refuse(grpc.StatusCode.RESOURCE_EXHAUSTED),
        Refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.QUEUE_FULL),
    ],
    ids=["no reason", "no retry info"],
)
async def test_overload_that_says_not_when_to_return_is_raised(refusal: Refuse) -> None:
    with pytest.raises(errors.OverloadedError) as raised:
        await play([refusal])
    assert raised.value.tries == 1


async def test_overload_past_the_deadline_is_raised_as_overload() -> None:
    refusal = Refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.QUEUE_FULL, 3600.0)
    async with ScriptedGateway([refusal]) as gateway, session_on(gateway) as session:
        with pytest.raises(errors.QueueFullError) as raised:
            await session.run("hi", deadline=60.0)
    assert raised.value.retry_after == 3600.0


@pytest.mark.parametrize("reason", [Reason.ATTEMPT_FENCED, Reason.ANOTHER_STEP_RUNNING])
async def test_a_step_that_someone_else_took_is_raised(reason: Reason) -> None:
    with pytest.raises(errors.ConflictError) as raised:
        await play([delta("a"), Refuse(grpc.StatusCode.ABORTED, reason, 2.0)])
    assert (raised.value.reason, raised.value.retry_after) == (reason, 2.0)


async def test_an_error_names_its_step() -> None:
    async with (
        ScriptedGateway([Refuse(grpc.StatusCode.INTERNAL, Reason.INTERNAL)]) as gateway,
        session_on(gateway) as session,
    ):
        with pytest.raises(errors.InternalError) as raised:
            await session.run("hi")
    assert raised.value.step_id == gateway.steps[0].step_id != ""


async def test_a_step_that_is_begun_and_lost_again_and_again_ends() -> None:
    lost = [started(1), Refuse(grpc.StatusCode.UNAVAILABLE, Reason.WORKER_LOST, 0.0)]
    bounded = RetryConfig(initial_backoff=0.01, max_backoff=0.01, give_up_after=0.1)
    async with ScriptedGateway(*[lost] * 100) as gateway, session_on(gateway, retry=bounded) as session:
        with pytest.raises(errors.WorkerUnavailableError) as raised:
            await session.run("hi", deadline=None)
    assert 1 < raised.value.tries < 100


async def test_a_step_that_fails_at_the_same_token_again_and_again_ends() -> None:
    failed = Refuse(grpc.StatusCode.UNAVAILABLE, Reason.WORKER_FAILED, 0.0)
    again = [restarted(2), delta("a", epoch=2), failed]
    bounded = RetryConfig(initial_backoff=0.01, max_backoff=0.01, give_up_after=0.1)
    scripts = [[started(1), delta("a"), failed], *[again] * 100]
    async with ScriptedGateway(*scripts) as gateway, session_on(gateway, retry=bounded) as session:
        with pytest.raises(errors.WorkerUnavailableError) as raised:
            await session.run("hi", deadline=None)
    assert 1 < raised.value.tries < 100


async def test_a_stream_that_breaks_after_the_commit_has_done_its_work() -> None:
    events, gateway = await play([delta("a"), committed("a"), BREAK])
    assert text_of(events) == "a"
    assert len(gateway.steps) == 1


async def test_a_whole_step_is_not_cancelled() -> None:
    _, gateway = await play([delta("a"), committed("a")])
    assert not gateway.cancelled.is_set()


async def test_an_error_names_its_cause() -> None:
    with pytest.raises(errors.InternalError) as raised:
        await play([Refuse(grpc.StatusCode.INTERNAL, Reason.INTERNAL)])
    assert isinstance(raised.value.__cause__, grpc.aio.AioRpcError)


async def test_waiting_ends_when_nothing_gets_further() -> None:
    never = RetryConfig(give_up_after=0.0)
    async with ScriptedGateway([delta("a"), BREAK]) as gateway, session_on(gateway, retry=never) as session:
        with pytest.raises(errors.UnavailableError):
            await session.run("hi")


async def test_the_deadline_reaches_the_gateway_and_ends_the_step() -> None:
    async with ScriptedGateway([delta("a"), Hang()]) as gateway, session_on(gateway) as session:
        with pytest.raises(errors.DeadlineExceededError):
            await session.run("hi", deadline=0.3)
        await gateway.cancelled.wait()
    assert gateway.time_left[0] is not None
    assert gateway.time_left[0] < 60.0


async def test_no_deadline_means_none() -> None:
    async with ScriptedGateway([committed("")]) as gateway, session_on(gateway) as session:
        await session.run("hi", deadline=None)
    assert gateway.time_left == [None]


@pytest.mark.parametrize("deltas", [1, 60], ids=["that waits", "that sends"])
async def test_leaving_the_loop_cancels_the_call(deltas: int) -> None:
    script = [*(delta("a" * 1000, i) for i in range(deltas)), Hang()]
    async with ScriptedGateway(script) as gateway, session_on(gateway) as session:
        async with session.step("hi") as events:
            async for _ in events:
                break
        await gateway.cancelled.wait()


async def test_cancelling_the_task_cancels_the_call() -> None:
    async with ScriptedGateway([delta("a"), Hang()]) as gateway, session_on(gateway) as session:
        task = asyncio.create_task(session.run("hi"))
        await gateway.hanging.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gateway.cancelled.wait()


async def test_a_rolled_back_session_tells_both_heads() -> None:
    lost = Refuse(
        grpc.StatusCode.DATA_LOSS,
        Reason.SESSION_ROLLED_BACK,
        metadata=(("head_length", "20"), ("head_log_hash", "ab" * 16)),
    )
    async with ScriptedGateway([delta("a"), committed("a")], [lost]) as gateway, session_on(gateway) as session:
        await session.run("one")
        with pytest.raises(errors.SessionRolledBackError) as raised:
            await session.run("two")
    assert raised.value.expected == Head(50, b"h" * 16)
    assert raised.value.actual == Head(20, bytes.fromhex("ab" * 16))


async def test_the_head_of_a_step_is_sent_with_the_next() -> None:
    async with ScriptedGateway([committed("")], [committed("", length=60)]) as gateway, session_on(gateway) as session:
        assert session.head is None
        await session.run("one")
        assert session.head == Head(50, b"h" * 16)
        await session.run("two")
    assert not gateway.steps[0].HasField("expected_head")
    assert gateway.steps[1].expected_head.length == 50


async def test_a_replayed_step_does_not_set_the_head_back() -> None:
    scripts = [committed("", length=60)], [committed("", length=50, replayed=True)]
    async with ScriptedGateway(*scripts) as gateway, session_on(gateway) as session:
        await session.run("two")
        await session.run("one", step_id="old")
        assert session.head == Head(60, b"h" * 16)
