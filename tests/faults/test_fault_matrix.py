"""Each point of the way of a step, and each party killed there: nothing committed is lost, doubled or changed.

Guards invariants 1 to 3 (ARCHITECTURE.md). One pool serves all cases; what was killed is restarted in between.
The model runs in float64, where decoding, prefill and replay agree to the last bit, so every outcome is compared
with an undisturbed run token by token.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from fault_stack import (
    CLOSING,
    LONG,
    QUESTION,
    SHORT,
    FaultStack,
    Point,
    Seen,
    begin,
    client_process,
    constant,
    fault_stack,
    log_of,
    until,
    watch,
)
from roost import Client, Sampling, Session
from roost.contract.faults import POINTS

pytestmark = [pytest.mark.faults, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

VICTIMS = ("client", "gateway", "worker", "redis")
STEP = "step-under-fire"
TEXT = "a\u00e9\u20ac\U0001f600z END b"
"""One, two, three and four bytes a character: tokens of the tiny model are single bytes."""


@dataclass(frozen=True)
class Reference:
    """What an undisturbed session says."""

    question: tuple[int, ...]
    closing: tuple[int, ...]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FaultStack]:
    async with fault_stack(tmp_path_factory.mktemp("faults")) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(pool: FaultStack) -> AsyncIterator[Client]:
    async with await Client.connect(pool.stack.targets) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reference(pool: FaultStack, client: Client) -> Reference:
    session = await begin(client)
    question = await session.run(QUESTION, sampling=LONG)
    closing = await session.run(CLOSING, sampling=SHORT)
    return Reference(tuple(question.token_ids), tuple(closing.token_ids))


def happens(point: str, victim: str) -> bool:
    """No worker has the step before one is reserved."""
    return not (victim == "worker" and point in ("gateway.step.received", "gateway.begin.done"))


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("point", POINTS)
async def test_a_death_on_the_way_of_a_step(
    pool: FaultStack, client: Client, reference: Reference, point: str, victim: str
) -> None:
    if not happens(point, victim):
        assert victim == "worker"
        return
    session = await begin(client)
    if point == "gateway.history.sent":
        await session.evict()
    armed = pool.arm(
        point, "pause:5" if point in ("worker.token", "gateway.delta.sent", "worker.delta.sent") else "pause"
    )
    try:
        seen = await take_step(pool, client, session, victim, armed)
    finally:
        armed.go()
    await pool.whole()
    armed.disarm()
    assert tuple(seen.token_ids) == reference.question
    await check_session(session, reference)
    await until_free(pool)


async def take_step(pool: FaultStack, client: Client, session: Session, victim: str, armed: Point) -> Seen:
    if victim == "client":
        async with client_process(pool.stack.targets, session.id, STEP) as kill:
            await armed.reached()
            kill()
            armed.go()
        return await watch(session, QUESTION, STEP)
    task = asyncio.create_task(watch(session, QUESTION, STEP))
    await pool.strike(victim, await armed.reached(), session)
    armed.go()
    return await task


async def check_session(session: Session, reference: Reference) -> None:
    """The log holds the two steps once each, and the session goes on as if nothing had happened."""
    steps = await log_of(session)
    assert [step.step_id for step in steps][1:] == [STEP]
    assert steps[1].output_token_ids == reference.question
    closing = await session.run(CLOSING, sampling=SHORT)
    assert tuple(closing.token_ids) == reference.closing
    again = await session.run(QUESTION, step_id=STEP, sampling=LONG)
    assert again.committed.replayed
    assert tuple(again.token_ids) == reference.question


async def until_free(pool: FaultStack) -> None:
    async def nothing_is_claimed() -> bool:
        return not await pool.claims()

    await until(nothing_is_claimed, "reservations to be given back")


STOPPED = Sampling(temperature=0.0, max_tokens=48, stop=("END",))


@pytest.mark.parametrize("point", ["worker.token", "gateway.delta.sent"])
@pytest.mark.parametrize("position", range(1, len(TEXT.encode()) + 2, 4))
@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0, max_tokens=48), STOPPED], ids=["json", "stop-string"])
async def test_a_death_inside_a_character_a_stop_string_or_a_json_value(
    pool: FaultStack, client: Client, point: str, position: int, sampling: Sampling
) -> None:
    whole = f'"{TEXT}"'
    expected = whole[: whole.index("END")] if sampling.stop else whole
    session = await begin(client)
    armed = pool.arm(point, f"kill:{position}")
    seen = await watch(session, QUESTION, STEP, sampling, constant(TEXT))
    armed.disarm()
    await pool.whole()
    assert seen.result is not None
    assert seen.text == seen.result.committed.output.content == expected
    steps = await log_of(session)
    assert [step.step_id for step in steps][1:] == [STEP]
    assert steps[1].output_token_ids == tuple(seen.token_ids)
    assert (await session.run(CLOSING, sampling=SHORT)).committed.index == 2
    await until_free(pool)
