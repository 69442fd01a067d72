"""How often a step's output comes: what the SDK asks for, and what the fake gateway does with it."""

from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import pytest

from roost import Delta, Deltas, Event, RetryConfig, Sampling, Started, _step, _transport, errors
from roost.sync import SyncClient
from roost.testing import FakeGateway
from roost.v1 import session_service_pb2 as pb
from scripted_gateway import BREAK, ScriptedGateway, committed, delta, session_on, started

REPLY = "an answer of several pieces"
QUICK = RetryConfig(initial_backoff=0.001, max_backoff=0.002, give_up_after=20.0)


def _deltas(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Delta)]


@pytest.mark.parametrize(("asked", "pieces"), [(Deltas.NONE, 1), (Deltas.INTERVAL, 4), (Deltas.EACH, 4)])
async def test_a_step_comes_at_the_pace_that_its_caller_asks_for(asked: Deltas, pieces: int) -> None:
    async with FakeGateway(lambda _: REPLY) as fake:
        session = await (await fake.connect()).open()
        step = session.step("hello", deltas=asked)
        deltas = _deltas([event async for event in step])
        assert (len(deltas), "".join(deltas)) == (pieces, REPLY)
        assert (await step.result()).text == REPLY
        assert fake.step_requests[-1].deltas == pb.Deltas.Value(f"DELTAS_{asked.name}")


async def test_only_who_iterates_gets_deltas_by_default() -> None:
    async with FakeGateway(lambda _: REPLY) as fake:
        session = await (await fake.connect()).open()
        assert (await session.run("hello")).text == REPLY
        assert len(_deltas([event async for event in session.step("hello")])) > 1
        assert [request.deltas for request in fake.step_requests] == [pb.DELTAS_NONE, pb.DELTAS_INTERVAL]


async def test_log_probabilities_come_before_the_commit_since_they_are_not_stored() -> None:
    async with FakeGateway(lambda _: REPLY) as fake:
        session = await (await fake.connect()).open()
        await session.run("hello", logprobs=1)
        await session.run("hello", sampling=Sampling(logprobs=0))
        assert [request.deltas for request in fake.step_requests] == [pb.DELTAS_INTERVAL] * 2


def test_blocking_calls_ask_as_the_others_do() -> None:
    with FakeGateway(lambda _: REPLY) as fake, SyncClient.connect(fake.targets) as client:
        session = client.open()
        assert session.run("hello").text == REPLY
        assert _deltas(list(session.step("hello", deltas=Deltas.NONE))) == [REPLY]
        assert len(_deltas(list(session.step("hello")))) > 1
        asked = [request.deltas for request in fake.step_requests]
        assert asked == [pb.DELTAS_NONE, pb.DELTAS_NONE, pb.DELTAS_INTERVAL]


async def test_an_unknown_pace_is_refused_before_anything_is_sent() -> None:
    async with FakeGateway() as fake:
        session = await (await fake.connect()).open()
        with pytest.raises(ValueError, match="'often' is not a valid Deltas"):
            session.step("hello", deltas="often")  # type: ignore[arg-type]
        assert not fake.step_requests


@pytest.mark.parametrize("reply", [REPLY, ""])
async def test_a_step_without_deltas_survives_its_gateway(reply: str) -> None:
    async with FakeGateway(lambda _: reply, gateways=2) as fake:
        session = await (await fake.connect(retry=QUICK)).open()
        fake.break_next_step(after_tokens=9)
        fake.lose_next_commit()
        assert (await session.run("hello")).text == reply
        received = [request.received.tokens for request in fake.step_requests]
        assert received == [0, 0, 0], "nothing comes before the commit"
        assert (await session.run("again")).text == reply


@pytest.mark.parametrize(
    ("asked", "tries", "outcome"),
    [(Deltas.NONE, 4, nullcontext()), (Deltas.INTERVAL, 2, pytest.raises(errors.UnavailableError))],
)
async def test_only_a_step_without_deltas_may_be_silent_for_long_between_failures(
    monkeypatch: pytest.MonkeyPatch, asked: Deltas, tries: int, outcome: AbstractContextManager[object]
) -> None:
    """Each try is with a worker for longer than failures are borne."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    for module in (_step, _transport):
        monkeypatch.setattr(module, "time", clock)
    retry = RetryConfig(initial_backoff=0.001, max_backoff=0.002, give_up_after=60.0)
    scripts = [*[[started(number), BREAK] for number in (1, 2, 3)], [started(4), delta("a", epoch=4), committed("a")]]
    async with ScriptedGateway(*scripts) as gateway, session_on(gateway, retry=retry) as session:
        with outcome:
            async for event in session.step("hi", deltas=asked, deadline=None):
                clock.now += 90.0 * isinstance(event, Started)
    assert len(gateway.steps) == tries
