"""`roost sessions`: look at sessions and manage them."""

from typing import Annotated

import typer

from roost import BudgetScope, Head, LoggedStep, Message, SessionInfo, SessionState, SessionTool, Tier
from roost.cli.options import DEFAULT_TARGET, ApiKey, Output, Pool, SessionId, Target, connect
from roost.cli.output import OutputFormat, age, expected_errors, moment, print_json, print_table
from roost.sync import SyncSession

app = typer.Typer(help="Look at sessions and manage them.", no_args_is_help=True)


@app.command("list")
def list_sessions(
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    pool: Pool = None,
    state: Annotated[SessionState | None, typer.Option(help="Only this state.")] = None,
    tier: Annotated[Tier | None, typer.Option(help="Only this tier.")] = None,
    role: Annotated[str, typer.Option(help="Only this role.")] = "",
    task: Annotated[str, typer.Option(help="Only this task.")] = "",
    output: Output = OutputFormat.TABLE,
) -> None:
    """List your sessions of a pool, oldest first."""
    with expected_errors(), connect(target, api_key, pool) as client:
        sessions = list(client.sessions(state=state, tier=tier, role=role, task=task))
    if output is OutputFormat.JSON:
        print_json(sessions)
    else:
        columns = ("SESSION", "ROLE", "TASK", "STATE", "TIER", "TOKENS", "STEPS", "HOLD", "AGE")
        print_table(columns, (_row(info) for info in sessions))


@app.command()
def get(
    session: SessionId, target: Target = DEFAULT_TARGET, api_key: ApiKey = None, output: Output = OutputFormat.TABLE
) -> None:
    """Show one session."""
    with expected_errors(), connect(target, api_key) as client:
        _show(client.session(session).info(), output)


@app.command()
def fork(
    session: SessionId,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the log that the new session has; all of them by default.", min=0)
    ] = None,
    task: Annotated[str, typer.Option(help="Task of the new session; that of the other one by default.")] = "",
    label: Annotated[list[str] | None, typer.Option(help="Label of the new session, KEY=VALUE; repeatable.")] = None,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Branch a new session off another one. They share the log up to there."""
    labels = dict(_label(text) for text in label or ())
    with expected_errors(), connect(target, api_key) as client:
        other = client.session(session)
        _show(other.fork(_head_after(other, steps), task=task, labels=labels).info(), output)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--label")
    return key, value


def _head_after(session: SyncSession, steps: int | None) -> Head | None:
    """The head of the log after so many steps; None for its end."""
    if not steps:
        return None if steps is None else Head()
    for step in session.steps():
        if step.index == steps - 1:
            return step.head
    raise typer.BadParameter(f"the log does not have {steps} steps", param_hint="--steps")


@app.command()
def fold(
    session: SessionId,
    summary: Annotated[str, typer.Option(help="Summary; the pool's model writes one by default.")] = "",
    keep_turns: Annotated[int, typer.Option(help="Last turns that stay as they are.", min=0)] = 2,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Put a summary in place of the first steps of a session's log. The old log stays readable."""
    with expected_errors(), connect(target, api_key) as client:
        _show(client.session(session).fold(summary, keep_turns=keep_turns), output)


@app.command()
def hold(
    session: SessionId,
    tool: Annotated[str, typer.Option(help="Tool that runs during the pause.")] = "",
    expect_seconds: Annotated[float, typer.Option(help="Expected length of the pause; 0 is unknown.", min=0)] = 0.0,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Announce a pause, so that the KV cache can be kept until the next step."""
    with expected_errors(), connect(target, api_key) as client:
        _show(client.session(session).hold(tool=tool, expect_seconds=expect_seconds), output)


@app.command()
def evict(session: SessionId, target: Target = DEFAULT_TARGET, api_key: ApiKey = None) -> None:
    """Drop the KV cache of a session; its next step rebuilds it."""
    with expected_errors(), connect(target, api_key) as client:
        tokens = client.session(session).evict()
    typer.echo(f"evicted {tokens} tokens of {session}")


@app.command()
def extend(
    session: SessionId,
    tokens: Annotated[int, typer.Option(help="Uncached tokens to add.", min=0)] = 0,
    gpu_seconds: Annotated[float, typer.Option(help="Seconds of GPU to add.", min=0)] = 0.0,
    steps: Annotated[int, typer.Option(help="Steps to add.", min=0)] = 0,
    wall_seconds: Annotated[float, typer.Option(help="Seconds since the first step to add.", min=0)] = 0.0,
    task: Annotated[bool, typer.Option("--task", help="Extend the budget of the session's task.")] = False,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Raise the limits of a session's budget, so that a paused session goes on."""
    scope = BudgetScope.TASK if task else BudgetScope.SESSION
    with expected_errors(), connect(target, api_key) as client:
        extended = client.session(session).extend_budget(
            tokens=tokens, gpu_seconds=gpu_seconds, steps=steps, wall_seconds=wall_seconds, scope=scope
        )
    _show(extended, output)


@app.command()
def close(
    session: SessionId, target: Target = DEFAULT_TARGET, api_key: ApiKey = None, output: Output = OutputFormat.TABLE
) -> None:
    """End a session: no more steps, its log stays readable."""
    with expected_errors(), connect(target, api_key) as client:
        _show(client.session(session).close(), output)


@app.command()
def delete(
    session: SessionId,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Erase a session and its log."""
    if not yes:
        typer.confirm(f"Erase {session} and its log?", abort=True)
    with expected_errors(), connect(target, api_key) as client:
        client.session(session).delete()
    typer.echo(f"deleted {session}")


@app.command()
def log(
    session: SessionId,
    generation: Annotated[int, typer.Option(help="Log to read; 0 is the current one.", min=0)] = 0,
    token_ids: Annotated[bool, typer.Option("--token-ids", help="Include token ids; only with `-o json`.")] = False,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show the committed steps of a session."""
    if token_ids and output is not OutputFormat.JSON:
        raise typer.BadParameter("only works with `-o json`", param_hint="--token-ids")
    with expected_errors(), connect(target, api_key) as client:
        steps = list(client.session(session).steps(generation=generation, include_token_ids=token_ids))
    if output is OutputFormat.JSON:
        print_json(steps)
    else:
        columns = ("STEP", "WHO", "TOKENS", "CACHED", "TEXT")
        print_table(columns, (row for step in steps for row in _turns(step)), folded="TEXT")


def _row(info: SessionInfo) -> tuple[object, ...]:
    return (
        info.id,
        info.role,
        info.task,
        info.state or "",
        info.tier or "",
        info.head.length,
        info.steps,
        _hold(info),
        age(info.create_time),
    )


def _hold(info: SessionInfo) -> str:
    if info.hold is None:
        return ""
    return f"{info.hold.tool or 'pause'} {info.hold.expect_seconds:g}s" if info.hold.expect_seconds else info.hold.tool


def _fork_point(info: SessionInfo) -> str:
    point = info.forked_from
    return "" if point is None else f"{point.session_id} at {point.head.length} tokens"


def _tool(tool: SessionTool) -> str:
    return f"{tool.name} (not enforced: {tool.keyword})" if tool.constrained is False else tool.name


def _show(info: SessionInfo, output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        print_json(info)
        return
    budget = "" if info.budget_remaining_tokens is None else info.budget_remaining_tokens
    print_table(
        ("FIELD", "VALUE"),
        [
            ("session", info.id),
            ("role", info.role),
            ("task", info.task),
            ("forked from", _fork_point(info)),
            ("model", f"{info.model} {info.model_revision}"),
            ("state", info.state or ""),
            ("tier", info.tier or ""),
            ("worker", info.worker),
            ("tokens", f"{info.head.length}, {info.cached_tokens} of them cached"),
            ("log hash", info.head.log_hash.hex()),
            ("steps", f"{info.steps} in generation {info.generation}"),
            ("hold", _hold(info)),
            ("tools", ", ".join(map(_tool, info.tools))),
            ("budget left", budget),
            ("budgets", ", ".join(map(str, info.budgets))),
            ("running step", info.running_step_id),
            ("opened", moment(info.create_time)),
            ("expires", moment(info.expire_time)),
        ],
    )


def _turns(step: LoggedStep) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = [
        (step.index, message.name or message.role, "", "", _said(message)) for message in step.messages
    ]
    usage = step.usage
    return [*rows, (step.index, step.output.role, usage.output_tokens, usage.cached_tokens, _said(step.output))]


def _said(message: Message) -> str:
    calls = [f"→ {call.name}({call.arguments_json})" for call in message.tool_calls]
    return "\n".join(part for part in (message.content, *calls) if part)
