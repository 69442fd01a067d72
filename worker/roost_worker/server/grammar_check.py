"""Checks a step's grammar before the engine takes it."""

import asyncio
from collections.abc import Iterator

from roost.v1 import worker_service_pb2 as pb
from roost_worker.grammar import CompilePool, CompileUnavailableError, GrammarError, build_tool_call
from roost_worker.render.formats import CallWrapper
from roost_worker.server import refusals
from roost_worker.server.requests import invalid_schema


async def check_grammar(start: pb.Start, grammar: str, wrapper: CallWrapper, pool: CompilePool) -> None:
    """Return when the pool has accepted `grammar`, which was built from the step's format for the model's calls.

    Raise Refused: INVALID_SCHEMA naming the tool or the field; QUEUE_TIMEOUT without a verdict in `wait_seconds`.
    """
    if pool.accepts(grammar):
        return
    loop = asyncio.get_running_loop()
    deadline = loop.time() + pool.setup.limits.wait_seconds
    for name, part in _parts(start, grammar, wrapper):
        try:
            await pool.check(part, max(0.0, deadline - loop.time()))
        except GrammarError as error:
            raise invalid_schema(start, f"{name}: {error}") from error
        except CompileUnavailableError as error:
            raise refusals.no_verdict(str(error)) from error


def _parts(start: pb.Start, grammar: str, wrapper: CallWrapper) -> Iterator[tuple[str, str]]:
    """Yield the grammars to compile, each with the name of what it came from; the whole is the last.

    A tool that cannot be compiled is known by a grammar of its own, because llguidance's errors name no tool.
    """
    if start.format.WhichOneof("kind") == "json_schema":
        yield "json_schema", grammar
        return
    name = start.format.tool_choice.name
    tools = [tool for tool in start.tools if not name or tool.name == name]
    if len(tools) > 1:
        for tool in tools:
            yield _name_of(tool.name), build_tool_call([tool], tool.name, wrapper)
    yield _name_of(tools[0].name) if len(tools) == 1 else f"the session's {len(tools)} tools together", grammar


def _name_of(tool: str) -> str:
    return f"tool {tool!r}: parameters_json"
