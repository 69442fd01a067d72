"""A required call of a recorded client's tools takes at most 0.6 of the steps that drawing each token takes."""

import pytest

from required_calls import SMOLLM2, CallingEngine
from roost_worker.convert.store import ModelStore
from roost_worker.engine.messages import SamplingParams
from wire_tools import tool_lists

pytestmark = pytest.mark.model

CLIENT = "langgraph"
QUESTION = "Read a.txt and b.txt and say what they have in common."


@pytest.fixture(scope="module")
def engines() -> tuple[CallingEngine, CallingEngine]:
    """One that draws each token, and one as workers have it."""
    folder = ModelStore().prepare(SMOLLM2, "float32").path
    return CallingEngine(folder, 0), CallingEngine(folder)


@pytest.mark.parametrize(
    "sampling",
    [SamplingParams(max_tokens=96), SamplingParams(max_tokens=96, seed=1, temperature=0.7)],
    ids=["greedy", "seeded"],
)
def test_required_calls_take_fewer_steps(
    engines: tuple[CallingEngine, CallingEngine], sampling: SamplingParams
) -> None:
    drawn, forced = (engine.call(tool_lists()[CLIENT], QUESTION, sampling) for engine in engines)
    assert drawn.ids == forced.ids
    assert drawn.batches == len(drawn.ids)
    assert forced.batches <= 0.6 * drawn.batches
