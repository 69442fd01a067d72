"""The live table shows every agent, worker and tier, whatever state they are in."""

import io

from rich.console import Console

from roost.contract.lease import WorkerLease
from roost_operator.demo.scene import AgentState, Phase, Scene
from roost_operator.demo.view import render


def lease(name: str) -> WorkerLease:
    return WorkerLease(
        worker_id=name,
        boot="b",
        address=f"127.0.0.1:{len(name)}",
        model="m",
        model_revision="r",
        capacity_tokens=2048,
        max_running=8,
        running=3,
    )


def shown(scene: Scene) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(render(scene))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_everything_is_shown() -> None:
    scene = Scene(total_steps=12)
    for number, phase in enumerate(Phase):
        scene.agents[f"agent-{number}"] = AgentState(f"agent-{number}", "analyst", 0, f"s{number}", phase, steps=1)
    scene.tiers = {"s0": "hot", "s1": "cold", "s2": "hot"}
    scene.see_leases([lease("worker-a"), lease("worker-bb")])
    scene.tell("SIGKILL to [somebody]")
    text = shown(scene)
    for word in (
        "agent-0",
        "worker-a",
        "worker-bb",
        "2 hot",
        "1 cold",
        "6/12 steps",
        "1 waiting",
        "[somebody]",
        "2048",
    ):
        assert word in text


def test_the_agents_of_the_spike_are_one_line() -> None:
    scene = Scene()
    phases = (Phase.WAITING, Phase.WAITING, Phase.STREAMING, Phase.DONE)
    for number, phase in enumerate(phases):
        name = f"spike-{number}"
        scene.crowd[name] = AgentState(name, "reviewer", 0, phase=phase, longest_wait=1.5 * number)
    text = shown(scene)
    assert "Spike: 4 agents · 2 waiting, 1 streaming, 1 done · longest wait 4.5 s" in text
    assert "spike-0" not in text
    assert "0/0 steps" in text


def test_an_empty_scene_can_be_shown() -> None:
    assert "no sessions yet" in shown(Scene())


def test_workers_that_join_later_are_told_of() -> None:
    lines: list[str] = []
    scene = Scene(on_happening=lines.append)
    scene.see_leases([lease("first")])
    assert lines == []
    scene.see_leases([])  # Redis is away: what was known stays
    assert [known.worker_id for known in scene.leases] == ["first"]
    scene.see_leases([lease("first"), lease("second")])
    assert len(lines) == 1
    assert "second has joined" in lines[0]
    assert scene.addresses == {"first": "127.0.0.1:5", "second": "127.0.0.1:6"}


def test_progress_and_phases() -> None:
    scene = Scene(total_steps=4)
    assert scene.progress == 0.0
    scene.agents = {
        name: AgentState(name, "r", 0, phase=Phase.STREAMING, step_tokens=n, steps=1) for n, name in enumerate("abcd")
    }
    assert [agent.name for agent in scene.streaming(2)] == ["c", "d"]
    assert scene.progress == 1.0
    assert scene.running
    for agent in scene.agents.values():
        agent.phase = Phase.DONE
    assert not scene.running
