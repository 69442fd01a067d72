"""A schema that the grammar library refuses, or that ends or occupies it, fails its own step and no other."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import grpc
import psutil
import pytest

from compile_steps import setup
from redis_servers import RedisServer
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.grpc_errors import details_of
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost_worker.config import GrammarConfig
from roost_worker.grammar import CompilePool, build_json_schema, build_tool_call
from roost_worker.render.formats import CHATML
from roost_worker.server.grammar_check import build_constraint, check_grammar
from worker_harness import POOL, Ledger, World, reason, scripted_world, worker_config

OTHER = f"{POOL}/01hzzzzzzzzzzzzzzzzzzzzzzy"
REQUIRED = api.TOOL_CHOICE_MODE_REQUIRED
WRAPPER = CHATML.calls.wrapper({})


@pytest.fixture
async def stepping_world(world: World) -> AsyncIterator[World]:
    """A worker whose compile processes do what a schema's description says (`compile_steps`)."""
    pool = world.server.shell.grammars = CompilePool(setup())
    yield world
    await pool.aclose()


def _tool(name: str, schema: str) -> api.Tool:
    return api.Tool(name=name, parameters_json=schema)


def _schema(step: str) -> api.Format:
    return api.Format(json_schema=f'{{"description": "step={step}"}}')


def _call(name: str = "") -> api.Format:
    return api.Format(tool_choice=api.ToolChoice(mode=REQUIRED, name=name))


BAD = _tool("bad", '{"description": "step=refuse:why"}')
CRASHING = _tool("crashing", '{"description": "step=crash"}')
GOOD, OTHER_TOOL = _tool("good", "{}"), _tool("other", "{}")


async def _check(pool: CompilePool, form: api.Format, tools: Sequence[api.Tool] = ()) -> Refused | None:
    """Checks a step's grammar; returns its refusal."""
    start = pb.Start(format=form, tools=tools)
    try:
        constraint = await build_constraint(start, WRAPPER, pool)
        await check_grammar(start, constraint, WRAPPER, pool)
    except Refused as refused:
        return refused
    assert constraint.grammar is not None
    assert pool.accepts(constraint.grammar)
    return None


@pytest.fixture
async def pool() -> AsyncIterator[CompilePool]:
    pool = CompilePool(setup())
    yield pool
    await pool.aclose()


@pytest.mark.parametrize(
    ("form", "tools", "message", "field"),
    [
        (_schema("refuse:why"), [], "json_schema: the grammar is refused: why", "format.json_schema"),
        (_call(), [GOOD, BAD], "tool 'bad': parameters_json: the grammar is refused: why", "format.tool_choice"),
        (_call("bad"), [GOOD, BAD], "tool 'bad': parameters_json: the grammar is refused: why", "format.tool_choice"),
        (_call(), [BAD], "tool 'bad': parameters_json: the grammar is refused: why", "format.tool_choice"),
        (_call(), [GOOD, CRASHING, BAD], "tool 'crashing': parameters_json: the grammar ends", "format.tool_choice"),
    ],
)
async def test_a_refusal_names_the_tool_and_the_field(
    pool: CompilePool, form: api.Format, tools: Sequence[api.Tool], message: str, field: str
) -> None:
    refused = await _check(pool, form, tools)
    assert refused is not None
    assert refused.reason is Reason.INVALID_SCHEMA
    assert refused.message.startswith(message)
    assert [name for name, _ in refused.violations] == [field]
    assert await _check(pool, _call(), [GOOD, OTHER_TOOL]) is None


async def test_tools_that_are_refused_only_together_are_said_to_be() -> None:
    tools = [_tool(f"tool-{number}", "{}") for number in range(3)]
    longest = max(len(build_tool_call([tool], tool.name, WRAPPER)) for tool in tools)
    pool = CompilePool(replace(setup("build_short"), vocab_size=longest))
    refused = await _check(pool, _call(), tools)
    await pool.aclose()
    assert refused is not None
    assert refused.message == "the session's 3 tools together: the grammar is refused: too long"


async def test_a_tool_that_is_not_asked_for_is_not_compiled(pool: CompilePool) -> None:
    assert await _check(pool, _call("good"), [GOOD, BAD, CRASHING]) is None


async def test_accepted_grammars_reach_the_engine_and_the_process_goes_with_the_worker(world: World) -> None:
    world.script(1, "ok")
    await world.step(Ledger(), format=api.Format(json_schema='{"type": "object"}'))
    pid = world.server.shell.grammars.processes[0].pid
    assert pid is not None
    await world.server.stop()
    assert not psutil.pid_exists(pid)


async def test_a_schema_that_cannot_be_enforced_is_refused_with_its_keyword(world: World) -> None:
    schema = '{"type": "array", "uniqueItems": true}'
    error = await (await world.begin(Ledger(), format=api.Format(json_schema=schema))).fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SCHEMA")
    assert "json_schema: /uniqueItems cannot be enforced" in (error.details() or "")


async def test_a_schema_that_the_real_library_refuses_fails_its_step(world: World) -> None:
    schema = '{"type": "integer", "minimum": 5, "maximum": 3}'
    error = await (await world.begin(Ledger(), format=api.Format(json_schema=schema))).fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SCHEMA")
    assert "Unsatisfiable schema" in (error.details() or "")
    assert (await world.state()).waiting == 0


@pytest.mark.parametrize(
    ("step", "why"), [("crash", "SIGSEGV"), ("loop", "CPU time"), ("allocate", "MiB"), ("panic", "out of bounds")]
)
async def test_a_schema_that_breaks_the_library_costs_another_session_nothing(
    stepping_world: World, step: str, why: str
) -> None:
    world = stepping_world
    ids = world.script(2, "undisturbed")
    world.gate.let(3)
    other = await world.begin(Ledger(OTHER), seed=2)
    await other.until_tokens(3)
    error = await (await world.begin(Ledger(), format=_schema(step))).fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SCHEMA")
    assert why in (error.details() or "")
    world.gate.open()
    await other.until("finished")
    assert other.out.ids == ids
    assert (await world.state()).running == 0


async def test_a_step_whose_grammar_waits_too_long_may_come_back(redis_server: RedisServer, tmp_path: Path) -> None:
    config = worker_config(redis_server.url, tmp_path / "cache", grammar=GrammarConfig(wait_seconds=0.2))
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    async with scripted_world(config) as world:
        world.script(1, "ok")
        pool = world.server.shell.grammars = CompilePool(replace(setup(), limits=config.grammar))
        await pool.json_schema(_schema(f"wait:{gate}").json_schema, 60.0)
        error = await (await world.begin(Ledger(), format=_schema(f"wait:{gate}"))).fail()
        assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_TIMEOUT")
        assert details_of(error).retry_seconds is not None
        await asyncio.to_thread(gate.write_text, "x")
        await pool.check(build_json_schema(_schema(f"wait:{gate}").json_schema), 60.0)
        await (await world.begin(Ledger(), format=_schema(f"wait:{gate}"))).until("finished")
        await pool.aclose()
