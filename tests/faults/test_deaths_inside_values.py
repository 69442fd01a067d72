"""A gateway or worker killed inside of a character, a stop string or a JSON value: the text goes on where it broke."""

import pytest

from fault_stack import CLOSING, QUESTION, SHORT, FaultStack, begin, constant, log_of, watch
from roost import Client, Sampling

pytestmark = [pytest.mark.faults, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

STEP = "step-under-fire"
TEXT = "a\u00e9\u20ac\U0001f600z END b"
"""One, two, three and four bytes a character: tokens of the tiny model are single bytes."""
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
    await pool.everything_is_free()
