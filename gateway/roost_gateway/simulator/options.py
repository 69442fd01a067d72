"""Options that `roost simulate` and `roost plan` share: the workload and the workers."""

from pathlib import Path
from typing import Annotated

import typer

from roost_gateway.simulator import policies
from roost_gateway.simulator.costs import COSTS
from roost_gateway.simulator.costs_file import costs_of
from roost_gateway.simulator.formats.load import FORMATS
from roost_gateway.simulator.load import GENERATED
from roost_gateway.simulator.worker import WorkerSettings

Workload = Annotated[str, typer.Option(help=f"One of {', '.join((GENERATED, *FORMATS))}.")]
File = Annotated[Path | None, typer.Option(exists=True, help="File with sessions or requests.")]
Sessions = Annotated[int, typer.Option(min=1, help="Closed loop: so many sessions at any time.")]
Rate = Annotated[float | None, typer.Option(min=1e-9, help="Open loop: so many sessions begin a second.")]
Ramp = Annotated[float, typer.Option(min=0, help="Seconds in which a closed loop's first sessions begin.")]
LongestGap = Annotated[
    float | None, typer.Option(min=0, help="Most seconds between a step's end and its session's next step.")
]
KvTokens = Annotated[int, typer.Option(min=1, help="Tokens of KV that a worker holds.")]
HostTokens = Annotated[int, typer.Option(min=0, help="Tokens of KV that a worker's host memory holds; 0 for none.")]
ContextTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest context of the model; a step beyond it ends its session.")
]
MaxRunning = Annotated[int, typer.Option(min=1, help="Steps that a worker runs at once.")]
Policy = Annotated[
    str, typer.Option(help=f"What a worker keeps: {', '.join(policies.NAMES)}, the last one knowing the future.")
]
Costs = Annotated[
    str, typer.Option(help=f"What a worker's work takes: {', '.join(COSTS)}, or a file that `roost calibrate` wrote.")
]
Steps = Annotated[int, typer.Option(min=1, help="End after so many steps.")]
Seed = Annotated[int, typer.Option(help="Of everything that is random.")]


def worker_settings(
    kv_tokens: int, host_tokens: int, context_tokens: int | None, max_running: int, costs: str
) -> WorkerSettings:
    """Return the settings of the options. Raise ValueError when one is wrong."""
    return WorkerSettings(
        kv_tokens=kv_tokens,
        host_tokens=host_tokens,
        context_tokens=context_tokens,
        max_running=max_running,
        costs=costs_of(costs),
    )
