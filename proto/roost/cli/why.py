"""`roost why`: why a session's steps took the time that they took."""

from typing import Annotated

import typer

from roost import LoggedStep
from roost.cli.options import DEFAULT_TARGET, ApiKey, Output, SessionId, Target, connect
from roost.cli.output import OutputFormat, expected_errors, moment, print_json, print_table
from roost.sync import SyncSession


def why(
    session: SessionId,
    step: Annotated[str, typer.Option(help="Id of a step; without one, the last steps.")] = "",
    last: Annotated[int, typer.Option(help="How many of the last steps.", min=1)] = 10,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show why the steps of a session waited, and why tokens were rebuilt."""
    with expected_errors(), connect(target, api_key) as client:
        steps = _steps(client.session(session), step, last)
    if output is OutputFormat.JSON:
        print_json(
            [{"step_id": step.step_id, "index": step.index, "why": step.why, "line": _line(step)} for step in steps]
        )
    else:
        rows = ((step.index, step.step_id, moment(step.commit_time), _line(step)) for step in steps)
        print_table(("INDEX", "STEP", "COMMITTED", "WHY"), rows, folded="WHY")


def _steps(session: SyncSession, step_id: str, last: int) -> list[LoggedStep]:
    if not step_id:
        first_index = max(0, session.info().steps - last)
        return list(session.steps(first_index=first_index))[-last:]  # an older gateway begins with the first step
    for step in session.steps():
        if step.step_id == step_id:
            return [step]
    raise typer.BadParameter(
        f"the log has no step {step_id!r}; `roost why` without it lists the last ones", param_hint="--step"
    )


def _line(step: LoggedStep) -> str:
    return "" if step.why is None else step.why.line
