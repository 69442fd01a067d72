"""Each point of the way of a step, and each party killed there: nothing committed is lost, doubled or changed.

Guards invariants 1 to 3 (ARCHITECTURE.md). One pool serves all cases; what was killed is restarted in between.
The model runs in float64, where decoding, prefill and replay agree to the last bit, so every outcome is compared
with an undisturbed run token by token.
"""

import asyncio
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
    log_of,
    watch,
)
from roost import Client, Deltas, Session
from roost.errors import AttemptFencedError
from roost.fault_points import POINTS

pytestmark = [pytest.mark.faults, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

VICTIMS = ("client", "gateway", "worker", "redis")
STEP = "step-under-fire"
PAUSES = {"worker.token": "pause:5", "gateway.delta.sent": "pause:2", "worker.delta.sent": "pause:2"}
"""In the middle of the output. A busy machine may send all but the first token in a second delta, never in less."""


@dataclass(frozen=True)
class Reference:
    """What an undisturbed session says."""

    question: tuple[int, ...]
    closing: tuple[int, ...]


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
    armed = pool.arm(point, PAUSES.get(point, "pause"))
    try:
        seen = await take_step(pool, client, session, victim, armed)
    finally:
        armed.go()
    await pool.whole()
    armed.disarm()
    assert tuple(seen.token_ids) == reference.question
    await check_session(session, reference)
    await pool.everything_is_free()


@pytest.mark.parametrize("victim", ["gateway", "worker"])
@pytest.mark.parametrize("deltas", [Deltas.NONE, Deltas.INTERVAL])
async def test_a_death_while_output_gathers(
    pool: FaultStack, client: Client, reference: Reference, deltas: Deltas, victim: str
) -> None:
    """The worker has tokens that its gateway lacks; if it dies, they are generated again."""
    session = await begin(client)
    armed = pool.arm("worker.token", "pause:5")
    step = asyncio.create_task(watch(session, QUESTION, STEP, deltas=deltas))
    try:
        await pool.strike(victim, await armed.reached(), session)
    finally:
        armed.go()
    seen = await step
    await pool.whole()
    armed.disarm()
    assert tuple(seen.token_ids) == reference.question
    assert seen.restarts == 0
    await check_session(session, reference)
    await pool.everything_is_free()


async def take_step(pool: FaultStack, client: Client, session: Session, victim: str, armed: Point) -> Seen:
    if victim == "client":
        async with client_process(pool.stack.targets, session.id, STEP) as kill:
            await armed.reached()
            kill()
            armed.go()
        try:
            return await watch(session, QUESTION, STEP)
        except AttemptFencedError:
            # The call of the client that died had not begun; it may do so after ours, in the moment before it ends.
            assert armed.path.name == "gateway.step.received"
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
