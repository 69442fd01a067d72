"""Builds a step's grammar from what its client sent, and checks it before the engine takes it.

All that takes long for some schemas is done in compile processes.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost_worker.grammar import CompilePool, CompileUnavailableError, GrammarError, ToolSchema, build_tool_call
from roost_worker.render.formats import CallWrapper
from roost_worker.server import refusals


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a step's output is constrained by."""

    grammar: str | None = None
    schemas: Mapping[tuple[str, str], ToolSchema] = field(default_factory=dict)
    """Those of the tools that the grammar has, by name and parameters_json."""

    @property
    def unenforced(self) -> dict[str, str]:
        """The schemas that `grammar` does not enforce, as text, by the tool's name."""
        return {name: text for (name, text), schema in self.schemas.items() if not schema.constrained}

    def schema_of(self, name: str, parameters_json: str) -> ToolSchema:
        """Return the schema of a tool that the grammar has."""
        return self.schemas[name, parameters_json]


def deadline_in(pool: CompilePool) -> Callable[[], float]:
    """Return a function that returns how many of the pool's `wait_seconds` are left."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + pool.setup.limits.wait_seconds
    return lambda: max(0.0, deadline - loop.time())


@contextmanager
def verdict(refuse: Callable[[str], Refused]) -> Iterator[None]:
    """Raise Refused in place of what a pool raises: `refuse(why)` when it refuses, QUEUE_TIMEOUT without a verdict."""
    try:
        yield
    except GrammarError as error:
        raise refuse(str(error)) from error
    except CompileUnavailableError as error:
        raise refusals.no_verdict(str(error)) from error


async def build_constraint(start: pb.Start, wrapper: CallWrapper, pool: CompilePool) -> Constraint:
    """Return what a step's format constrains its output by, for the model's calls.

    Raise Refused: INVALID_SCHEMA naming the tool or the field; QUEUE_TIMEOUT if schemas are not read in `wait_seconds`;
    INVALID_REQUEST.
    """
    seconds_left = deadline_in(pool)
    with verdict(partial(_invalid_schema, start)):
        match start.format.WhichOneof("kind"):
            case "json_schema":
                return Constraint(await pool.json_schema(start.format.json_schema, seconds_left()))
            case "tool_choice" if start.format.tool_choice.mode == api.TOOL_CHOICE_MODE_REQUIRED:
                if not start.tools:
                    raise refusals.invalid(
                        "a tool call is required but the session has no tools", field="format.tool_choice"
                    )
                schemas = {
                    (tool.name, tool.parameters_json): await pool.tool_schema(
                        tool.name, tool.parameters_json, seconds_left()
                    )
                    for tool in _chosen(start)
                }
                known = Constraint(schemas=schemas)
                grammar = build_tool_call(start.tools, start.format.tool_choice.name, wrapper, known.schema_of)
                return Constraint(grammar, schemas)
    return Constraint()


async def check_grammar(start: pb.Start, constraint: Constraint, wrapper: CallWrapper, pool: CompilePool) -> None:
    """Return when the pool has accepted the grammar, if there is one, that was built from the step's format.

    Raise Refused: INVALID_SCHEMA naming the tool or the field; QUEUE_TIMEOUT without a verdict in `wait_seconds`.
    """
    if constraint.grammar is None or pool.accepts(constraint.grammar):
        return
    seconds_left = deadline_in(pool)
    for name, part in _parts(start, constraint, constraint.grammar, wrapper):
        with verdict(partial(_invalid_schema, start, source=f"{name}: ")):
            await pool.check(part, seconds_left())


def _parts(start: pb.Start, constraint: Constraint, grammar: str, wrapper: CallWrapper) -> Iterator[tuple[str, str]]:
    """Yield the grammars to compile, each with the name of what it came from; the whole is the last.

    A tool that cannot be compiled is known by a grammar of its own, because llguidance's errors name no tool.
    """
    if start.format.WhichOneof("kind") == "json_schema":
        yield "json_schema", grammar
        return
    tools = _chosen(start)
    if len(tools) > 1:
        for tool in tools:
            yield _name_of(tool.name), build_tool_call([tool], tool.name, wrapper, constraint.schema_of)
    yield _name_of(tools[0].name) if len(tools) == 1 else f"the session's {len(tools)} tools together", grammar


def _chosen(start: pb.Start) -> Sequence[api.Tool]:
    """Return the tools that a required call may be of."""
    name = start.format.tool_choice.name
    return [tool for tool in start.tools if not name or tool.name == name]


def _invalid_schema(start: pb.Start, why: str, *, source: str = "") -> Refused:
    field = f"format.{start.format.WhichOneof('kind')}"
    return refusals.invalid(source + why, field=field, reason=Reason.INVALID_SCHEMA)


def _name_of(tool: str) -> str:
    return f"tool {tool!r}: parameters_json"
