"""The pure parts of a step: output, history, pressure, classes of worker errors."""

import asyncio
from collections.abc import Sequence

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.contract.events import Committed, Delta, Event, FinishReason, Started, Usage
from roost.contract.heads import AttemptRef, Head
from roost.contract.messages import Message, MessageRole
from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.steps import Cursor
from roost.contract.why import Why
from roost.grpc_errors import rich_status
from roost.store.records import LogEntry, RenewItem
from roost.v1.worker_service_pb2 import History
from roost_gateway.core.pressure import CALM_SECONDS, LONGEST_REST_SECONDS, Pressure
from roost_gateway.step import renewal, worker_stream
from roost_gateway.step.attempt import Failure, WorkerFailureError
from roost_gateway.step.background import Background
from roost_gateway.step.output import Outbox, OutputGapError, StepOutput
from roost_gateway.step.worker_stream import classify
from step_attempts import attempt_of, descriptor_of

ATTEMPT = AttemptRef(1, b"n" * 16)


@given(st.lists(st.text("aé€😀", max_size=3), max_size=20), st.lists(st.booleans(), max_size=20))
def test_deltas_are_contiguous_however_they_are_taken(pieces: list[str], takes: list[bool]) -> None:
    output, ids, text = StepOutput(ATTEMPT), list[int](), ""
    for number, piece in enumerate(pieces):
        output.append([number], piece, number, len(output.text))
        last = number == len(pieces) - 1
        if last or (number < len(takes) and takes[number]):
            taken = output.take()
            assert taken is not None
            assert (taken.token_offset, taken.text_offset) == (len(ids), len(text.encode()))
            ids += taken.token_ids
            text += taken.text
    assert ids == list(range(len(pieces)))
    assert text == "".join(pieces)
    assert output.take() is None


@pytest.mark.parametrize(("token", "byte"), [(0, 3), (2, 3), (1, 2), (1, 4)])
def test_a_delta_that_does_not_continue_is_refused(token: int, byte: int) -> None:
    output = StepOutput(ATTEMPT)
    output.append([7], "€", 0, 0)
    with pytest.raises(OutputGapError):
        output.append([8], "", token, byte)


def test_a_cursor_inside_a_character_is_the_clients_fault() -> None:
    output = StepOutput(ATTEMPT, Cursor(ATTEMPT, tokens=1, text_bytes=1))
    output.append([7, 8], "€", 0, 0)
    with pytest.raises(Refused, match="inside a character"):
        output.take()


COMMITTED = Committed(
    step_id="s",
    output=Message(MessageRole.ASSISTANT, ""),
    finish_reason=FinishReason.STOP,
    usage=Usage(),
    head=Head(3),
    index=0,
    queue_ms=0,
    first_token_ms=0,
    seed=1,
    replayed=False,
    output_tokens=3,
    failovers=0,
)


class _Log:
    """The log and ids of a session with steps of one to five ids."""

    def __init__(self, sizes: list[int]) -> None:
        self.ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]

    async def ids(self, session_id: str, generation: int, start: int, end: int) -> bytes:
        return b"".join(number.to_bytes(4, "little") for number in range(start, end))

    async def log(self, session_id: str, generation: int, first: int, count: int) -> list[LogEntry]:
        return [_entry(end) for end in self.ends[first : first + count]]


def _entry(end: int) -> LogEntry:
    return LogEntry("s", 0, (), {}, "", 0, 0, 0, 0, Head(end, b""), 0, {}, None, "", "")


@given(st.lists(st.integers(1, 5), max_size=80), st.integers(0, 100), st.integers(1, 60))
def test_history_is_whole_from_any_position(sizes: list[int], start: int, run_ids: int) -> None:
    log = _Log(sizes)
    length = sum(sizes)
    session = descriptor_of("s", head=Head(length), steps=len(sizes))
    source = worker_stream.SessionHistory(log, session)  # type: ignore[arg-type]  # what it needs of a store

    async def collect() -> list[History]:
        return [run async for run in source.runs(start)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_stream, "RUN_IDS", run_ids)
        runs = asyncio.run(collect())
    begin = min(start, length)
    ids = b"".join(run.token_ids for run in runs)
    assert ids == asyncio.run(log.ids("s", 1, begin, length))
    assert [run.last for run in runs] == [False] * (len(runs) - 1) + [True]
    assert [end for run in runs for end in run.step_ends] == [end for end in log.ends if end > begin]
    offset = begin
    for run in runs:
        assert run.offset == offset
        offset += len(run.token_ids) // 4
        assert all(run.offset < end <= offset for end in run.step_ends)


def test_streams_rest_only_while_the_loop_is_late() -> None:
    pressure = Pressure()
    pressure.observe(CALM_SECONDS / 2)
    assert pressure.rest == 0
    pressure.observe(1.0)
    assert pressure.rest == LONGEST_REST_SECONDS
    for _ in range(100):
        pressure.observe(0.0)
    assert pressure.rest == 0


Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "why", "expected"),
    [
        (Code.UNAVAILABLE, Reason.WORKER_DRAINING, Failure.BUSY),
        (Code.UNAVAILABLE, Reason.NO_WORKER, Failure.BUSY),
        (Code.RESOURCE_EXHAUSTED, Reason.QUEUE_FULL, Failure.BUSY),
        (Code.RESOURCE_EXHAUSTED, None, Failure.FAULTY),  # gRPC's own: the message is too large
        (Code.FAILED_PRECONDITION, Reason.MODEL_REVISION_MISMATCH, Failure.BUSY),
        (Code.NOT_FOUND, Reason.ATTEMPT_UNKNOWN, Failure.UNKNOWN_ATTEMPT),
        (Code.UNAVAILABLE, Reason.WORKER_LOST, Failure.LOST),
        (Code.UNAVAILABLE, Reason.WORKER_FAILED, Failure.FAULTY),
        (Code.UNAVAILABLE, None, Failure.LOST),
        (Code.CANCELLED, None, Failure.LOST),
        (Code.INTERNAL, Reason.INTERNAL, Failure.FAULTY),
        (Code.UNAUTHENTICATED, Reason.INVALID_API_KEY, Failure.FAULTY),
        (Code.INVALID_ARGUMENT, Reason.INVALID_SCHEMA, None),
        (Code.INVALID_ARGUMENT, Reason.STEP_TOO_LONG, None),
        (Code.ABORTED, Reason.ATTEMPT_FENCED, None),
        (Code.DEADLINE_EXCEEDED, Reason.DEADLINE_EXCEEDED, None),
    ],
)
def test_what_a_workers_status_means(code: Code, why: Reason | None, expected: Failure | None) -> None:
    trailing = grpc.aio.Metadata()
    if why is not None:
        metadata = {"limit_tokens": "9"}
        status = rich_status(
            Refused(why, "told", retry_seconds=1.5, violations=[("field", "wrong")], metadata=metadata)
        )
        assert status.code is code
        trailing = grpc.aio.Metadata(*status.trailing_metadata)
    error = classify(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, "told"))
    if expected is None:
        assert isinstance(error, Refused)
        assert (error.reason, error.retry_seconds) == (why, 1.5)
        assert (error.violations, error.metadata) == ((("field", "wrong"),), {"limit_tokens": "9"})
    else:
        assert isinstance(error, WorkerFailureError)
        assert error.failure is expected
        assert error.engine_died is (why is Reason.WORKER_LOST)


def test_a_request_that_a_newer_worker_finds_invalid_is_tried_nowhere_else() -> None:
    error = classify(grpc.aio.AioRpcError(Code.INVALID_ARGUMENT, grpc.aio.Metadata(), grpc.aio.Metadata(), "too odd"))
    assert isinstance(error, Refused)
    assert (error.reason, error.message) == (Reason.INVALID_REQUEST, "too odd")


async def test_a_rest_ends_with_the_step_and_gathers_output() -> None:
    outbox, output = Outbox(), StepOutput(ATTEMPT)
    outbox.started(output, Why(worker="w"))
    events = outbox.events()
    started = await anext(events)
    assert isinstance(started, Started)
    assert (started, started.attempt) == (Started("w", 0, 0, why=Why(worker="w")), ATTEMPT)
    for number in range(3):
        output.append([number], "", number, 0)
        outbox.more()
    outbox.committed(COMMITTED, output)
    await outbox.rest(1e6)
    event: Event = await anext(events)
    assert isinstance(event, Delta)
    assert list(event.token_ids) == [0, 1, 2]
    assert await anext(events) is COMMITTED


async def test_attempts_are_renewed_again_after_a_renewal_that_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "LEASE_PERIOD_SECONDS", 0.0)
    answers, renewed = [[], [True]], asyncio.Event()

    class Store:
        async def renew(self, pool: str, items: Sequence[RenewItem], lease_ms: int) -> list[bool]:
            if len(answers) == 1:
                renewed.set()
            return answers.pop(0) if len(answers) > 1 else answers[0]

    renewals = renewal.Renewal(Store())  # type: ignore[arg-type]  # what it needs of a store
    pool = PoolDocument.from_json("test/renewal", {"model": {"name": "m"}})
    with renewals.renewing(attempt_of(pool, descriptor_of("s"))):
        await renewed.wait()
    await renewals.aclose()


async def test_work_that_work_left_over_from_a_step_spawns_is_finished_too() -> None:
    background, aborted = Background(), asyncio.Event()

    async def abort() -> None:
        for _ in range(100):  # a call to the store takes some turns of the event loop
            await asyncio.sleep(0)
        aborted.set()

    async def step_that_was_cut_off() -> None:
        await asyncio.sleep(0)
        background.spawn(abort())

    background.spawn(step_that_was_cut_off())
    await background.finish(60.0)
    assert aborted.is_set()


async def test_work_that_does_not_end_in_time_is_cancelled() -> None:
    background, never = Background(), asyncio.Event()
    task = asyncio.create_task(never.wait())
    background.adopt(task)
    await background.finish(0.0)
    assert task.cancelled()
