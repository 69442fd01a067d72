"""A step that kills the worker that runs it: the second death ends it, and the pool and its session go on."""

import pytest

from fault_stack import CLOSING, LONG, QUESTION, SHORT, FaultStack, begin, log_of, watch
from roost import Client
from roost.contract.reasons import Reason
from roost.errors import StepKilledWorkersError

pytestmark = [pytest.mark.faults, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

STEP = "step-that-kills"


async def test_a_step_that_kills_two_workers_is_refused_and_its_session_goes_on(
    pool: FaultStack, client: Client
) -> None:
    session = await begin(client)
    points = [pool.arm("worker.token", "kill:5"), pool.arm("worker.stop", "kill")]
    with pytest.raises(StepKilledWorkersError) as raised:
        await watch(session, QUESTION, STEP)
    assert raised.value.retry_after is not None
    for point in points:
        await point.reached()
        point.disarm()
    await pool.whole()
    for step_id in (STEP, "the-same-by-another-id"):
        with pytest.raises(StepKilledWorkersError) as raised:
            await session.run(QUESTION, step_id=step_id, sampling=LONG)
        assert (raised.value.reason, raised.value.tries) == (Reason.STEP_KILLED_WORKERS, 1)
    closing = await session.run(CLOSING, sampling=SHORT)
    assert [step.step_id for step in await log_of(session)][1:] == [closing.committed.step_id]
    await pool.everything_is_free()
