"""The live table: agents, workers, sessions by tier, waiting steps and the last events."""

from collections import Counter

from rich.console import Group
from rich.table import Table
from rich.text import Text

from roost_operator.demo.scene import AgentState, Phase, Scene

_SHOWN_HAPPENINGS = 10
_STYLES = {
    Phase.STREAMING: "green",
    Phase.WAITING: "yellow",
    Phase.TOOL: "cyan",
    Phase.DONE: "dim",
    Phase.FAILED: "bold red",
    Phase.IDLE: "",
}


def render(scene: Scene) -> Group:
    """One frame."""
    happened = [Text(line, style="dim") for line in list(scene.happenings)[-_SHOWN_HAPPENINGS:]]
    return Group(_agents(scene), _workers(scene), _summary(scene), *_crowd(scene), *happened)


def _agents(scene: Scene) -> Table:
    table = Table(title="Agents", title_justify="left", expand=True, pad_edge=False)
    for column, ratio in (("agent", 2), ("tier", 1), ("doing", 1), ("steps", 1), ("worker", 2), ("writes", 8)):
        table.add_column(column, ratio=ratio, no_wrap=True, overflow="ellipsis")
    for agent in scene.agents.values():
        tier = scene.tiers.get(agent.session_id, "-")
        text = Text(" ".join(agent.text.split())[-80:], style="dim")
        table.add_row(agent.name, tier, _doing(agent), str(agent.steps), agent.worker, text)
    return table


def _crowd(scene: Scene) -> list[Text]:
    """One line on the agents of the spike, once it is played."""
    if not scene.crowd:
        return []
    phases = Counter(agent.phase for agent in scene.crowd.values())
    doing = ", ".join(f"{phases[phase]} {phase.value}" for phase in Phase if phases[phase])
    wait = max(agent.longest_wait for agent in scene.crowd.values())
    return [Text(f"Spike: {len(scene.crowd)} agents · {doing} · longest wait {wait:.1f} s", style="bold magenta")]


def _doing(agent: AgentState) -> Text:
    tokens = f" {agent.step_tokens}" if agent.phase is Phase.STREAMING else ""
    return Text(f"{agent.phase.value}{tokens}", style=_STYLES[agent.phase])


def _workers(scene: Scene) -> Table:
    table = Table(title="Workers", title_justify="left", expand=True, pad_edge=False)
    for column in ("worker", "running", "waiting", "KV tokens free", "of"):
        table.add_column(column, no_wrap=True)
    for lease in scene.leases:
        numbers = (lease.running, lease.waiting, lease.free_tokens, lease.capacity_tokens)
        table.add_row(lease.worker_id, *map(str, numbers))
    return table


def _summary(scene: Scene) -> Text:
    tiers = Counter(scene.tiers.values())
    places = ", ".join(f"{count} {tier}" for tier, count in sorted(tiers.items())) or "no sessions yet"
    queue = len(scene.of(Phase.WAITING))
    return Text(f"{scene.committed}/{scene.total_steps} steps · {places} · {queue} waiting", style="bold")
