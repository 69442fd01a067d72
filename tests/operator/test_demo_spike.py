"""The spike's agents return together, and what one of them meets stops none of the others."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from roost.testing import FakeGateway, FakeRole, Reason, Turn, refusal
from roost_operator.demo.journal import compare
from roost_operator.demo.scene import Phase, Scene
from roost_operator.demo.spike import AGENTS, ROLE, STEPS, Spike, play_spike
from roost_operator.demo.tools import Toolbox

ROLES = (FakeRole(ROLE),)


@pytest.fixture
def toolbox(tmp_path: Path) -> Iterator[Toolbox]:
    toolbox = Toolbox.over(tmp_path)
    with closing(toolbox.table):
        yield toolbox


async def played(gateway: FakeGateway, toolbox: Toolbox, folder: Path, scene: Scene) -> Spike:
    clients = [await gateway.connect(pool=gateway.pool) for _ in range(2)]
    return await play_spike(clients, toolbox, folder / "journal.jsonl", scene)


async def test_no_agent_returns_before_all_have_paused(toolbox: Toolbox, tmp_path: Path) -> None:
    scene, before_last = Scene(), list[str]()

    async def reply(turn: Turn) -> str:
        if turn.messages[-1].content.startswith(f"{AGENTS - 1}:"):
            others = [agent for name, agent in scene.crowd.items() if name != f"spike-{AGENTS}"]
            while any(agent.phase not in (Phase.TOOL, Phase.DONE) for agent in others):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            before_last.extend(request.step_id for request in gateway.step_requests)
        return "Fine."

    async with FakeGateway(reply, roles=ROLES) as gateway:
        spike = await played(gateway, toolbox, tmp_path, scene)
        client = await gateway.connect(pool=gateway.pool)
        states = [info.state async for info in client.sessions()]
    assert len(before_last) == AGENTS
    assert {step_id.rpartition("-")[2] for step_id in before_last} == {"0"}
    assert len(spike.journal.all_receipts()) == STEPS * AGENTS
    assert compare(spike.journal, spike.logs).clean
    assert {agent.phase for agent in scene.crowd.values()} == {Phase.DONE}
    assert {str(state) for state in states} == {"closed"}


async def test_an_agent_that_fails_stops_no_other(toolbox: Toolbox, tmp_path: Path) -> None:
    def reply(turn: Turn) -> str:
        if turn.messages[-1].content.startswith("7:"):
            raise refusal(Reason.BUDGET_EXCEEDED)
        return "Fine."

    scene = Scene()
    async with FakeGateway(reply, roles=ROLES) as gateway:
        spike = await played(gateway, toolbox, tmp_path, scene)
    phases = [agent.phase for agent in scene.crowd.values()]
    assert (phases.count(Phase.FAILED), phases.count(Phase.DONE)) == (1, AGENTS - 1)
    assert len(spike.journal.all_receipts()) == STEPS * (AGENTS - 1)
    assert len(compare(spike.journal, spike.logs).lost) == 1
    assert any("spike-8 gave up" in line for line in scene.happenings)
