"""CheckSession refuses system text and tools that no step could use, and says which tools are not constrained."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from compile_steps import setup
from redis_servers import RedisServer
from roost.grpc_errors import Details, details_of
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost_worker.config import GrammarConfig
from roost_worker.grammar import CompilePool, build_tool_call
from worker_harness import POOL, WAIT, Ledger, World, reason, scripted_world, worker_config

CONTEXT = 2048
OTHER = f"{POOL}/01hzzzzzzzzzzzzzzzzzzzzzzy"
GREP = api.Tool(name="grep", description="Searches.", parameters_json='{"properties": {"query": {"type": "string"}}}')
READ = api.Tool(name="fs.read", parameters_json="true")


@pytest.fixture
async def world(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    config = worker_config(redis_server.url, tmp_path_factory.getbasetemp() / "roost-cache", CONTEXT)
    async with scripted_world(config, blocks=1 + CONTEXT // 16) as started:
        yield started


@pytest.fixture
async def stepping_world(world: World) -> AsyncIterator[World]:
    """A worker whose compile processes do what a schema's description says (`compile_steps`)."""
    pool = world.server.shell.grammars = CompilePool(setup(wait_seconds=WAIT))
    yield world
    await pool.aclose()


def stepping(name: str, step: str) -> api.Tool:
    return api.Tool(name=name, parameters_json=f'{{"description": "step={step}"}}')


async def check(world: World, *tools: api.Tool, system: str = "", **fields: Any) -> pb.CheckSessionResponse:
    return await world.call("CheckSession", pb.CheckSessionRequest(system=system, tools=tools, **fields))


async def refused(world: World, *tools: api.Tool, **fields: Any) -> tuple[Details, str]:
    """Details and message of a refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await check(world, *tools, **fields)
    return details_of(error.value), error.value.details() or ""


async def test_tools_that_pass_can_be_required_one_by_one_and_together(world: World) -> None:
    response = await check(world, GREP, READ)
    assert [(tool.name, tool.constrained, tool.keyword) for tool in response.tools] == [
        ("grep", True, ""),
        ("fs.read", True, ""),
    ]
    wrapper, pool = world.renderer.call_wrapper, world.server.shell.grammars
    for tools, name in (([GREP], "grep"), ([READ], "fs.read"), ([GREP, READ], "")):
        assert pool.accepts(build_tool_call(tools, name, wrapper))


async def test_the_workers_own_process_reads_no_schema(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("build", "tool_schema"):
        monkeypatch.delattr(sys.modules[f"roost_worker.grammar.{name}"], "normalize")
    assert len((await check(world, GREP, READ)).tools) == 2
    required = (api.ToolChoice(mode=api.TOOL_CHOICE_MODE_REQUIRED, name=name) for name in ("", "grep"))
    for form in (
        api.Format(json_schema='{"type": "object"}'),
        *(api.Format(tool_choice=choice) for choice in required),
    ):
        await (await world.begin(Ledger(), tools=[GREP, READ], format=form)).until("accepted")


async def test_a_tool_that_is_not_constrained_is_named_with_its_keyword(world: World) -> None:
    pattern = '{"properties": {"password": {"type": "string", "pattern": "^(?=.*[0-9]).{8,}$"}}}'
    weak = api.Tool(name="weak", parameters_json=pattern)
    response = await check(world, GREP, weak)
    assert [(tool.name, tool.constrained) for tool in response.tools] == [("grep", True), ("weak", False)]
    assert "pattern" in response.tools[1].keyword
    choice = api.Format(tool_choice=api.ToolChoice(mode=api.TOOL_CHOICE_MODE_REQUIRED))
    stream = await world.begin(Ledger(), tools=[GREP, weak], format=choice)
    await stream.until("accepted")


async def test_a_schema_that_nobody_expected_refuses_its_session(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(CompilePool, "tool_schema")
    details, message = await refused(world, GREP)
    assert (details.reason, message) == ("INVALID_SCHEMA", "the format cannot be compiled; the worker's log says why")


@pytest.mark.parametrize("tools", [(), (GREP, READ)])
async def test_the_tokens_are_those_of_the_shortest_first_prompt(world: World, tools: Sequence[api.Tool]) -> None:
    response = await check(world, *tools, system="Be kind.")
    stream = await world.begin(Ledger(), ".", system="Be kind.", tools=tools)
    await stream.until("accepted")
    assert stream.accepted is not None
    assert response.prompt_tokens == len(stream.accepted.prompt_token_ids)


async def test_what_leaves_no_room_for_a_step_is_refused_with_its_tokens(world: World) -> None:
    tokens = (await check(world, GREP)).prompt_tokens
    assert (await check(world, GREP, limit_tokens=tokens + 1)).prompt_tokens == tokens
    details, message = await refused(world, GREP, limit_tokens=tokens)
    assert details.reason == "STEP_TOO_LONG"
    assert details.metadata == {"prompt_tokens": str(tokens), "limit_tokens": str(tokens)}
    assert f"{tokens} tokens" in message
    details, _ = await refused(world, GREP, system="x" * CONTEXT, limit_tokens=10 * CONTEXT)
    assert (details.reason, details.metadata["limit_tokens"]) == ("STEP_TOO_LONG", str(CONTEXT))
    assert int(details.metadata["prompt_tokens"]) > CONTEXT
    details, message = await refused(world, system="words " * 40_000)
    assert (details.reason, "at least" in message) == ("STEP_TOO_LONG", True)
    assert int(details.metadata["prompt_tokens"]) >= CONTEXT


async def test_a_tool_that_is_nested_too_deep_is_refused(world: World) -> None:
    """Neither the template nor the grammar library could take it."""
    schema = '{"type": "object", "properties": {"a": ' * 400 + '{"type": "string"}' + "}}" * 400
    details, message = await refused(world, GREP, api.Tool(name="deep", parameters_json=schema))
    assert details.reason == "INVALID_SCHEMA"
    assert details.violations == (("tools[1].parameters_json", message),)
    assert message.startswith("tool 'deep': parameters_json: nested deeper than 64 levels")


@pytest.mark.parametrize(
    ("step", "why"), [("refuse:why", "why"), ("crash", "SIGSEGV"), ("loop", "CPU time"), ("allocate", "MiB")]
)
async def test_a_tool_that_cannot_be_compiled_is_refused_by_name(stepping_world: World, step: str, why: str) -> None:
    details, message = await refused(stepping_world, GREP, stepping("bad", step), READ)
    assert details.reason == "INVALID_SCHEMA"
    assert details.violations == (("tools[1].parameters_json", message),)
    assert message.startswith("tool 'bad': parameters_json: ")
    assert why in message


async def test_a_refusal_is_in_the_clients_terms(world: World) -> None:
    schema = '{"properties": {"id": {"type": "string", "pattern": "^[a-f]{64}$", "maxLength": 9}}, "required": ["id"]}'
    _, message = await refused(world, api.Tool(name="get", parameters_json=schema))
    assert message == (
        "tool 'get': parameters_json: the grammar is refused: "
        "Unsatisfiable schema: required property 'id' is unsatisfiable"
    )


async def test_tools_that_are_refused_only_together_leave_a_session_other_steps(world: World) -> None:
    tools = [api.Tool(name=f"tool-{number}") for number in range(3)]
    longest = max(len(build_tool_call([tool], tool.name, world.renderer.call_wrapper)) for tool in tools)
    pool = world.server.shell.grammars = CompilePool(replace(setup("build_short"), vocab_size=longest))
    assert len((await check(world, *tools)).tools) == 3
    for name, steps in (("", "INVALID_SCHEMA"), ("tool-1", "")):
        choice = api.ToolChoice(mode=api.TOOL_CHOICE_MODE_REQUIRED, name=name)
        stream = await world.begin(Ledger(), tools=tools, format=api.Format(tool_choice=choice))
        if steps:
            assert reason(await stream.fail()) == steps
        else:
            await stream.until("accepted")
    await pool.aclose()


async def test_a_check_that_waits_for_compile_processes_may_come_back(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    config = worker_config(redis_server.url, tmp_path / "cache", CONTEXT, grammar=GrammarConfig(wait_seconds=0.2))
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    async with scripted_world(config, blocks=1 + CONTEXT // 16) as world:
        pool = world.server.shell.grammars = CompilePool(replace(setup(), limits=config.grammar))
        tool = stepping("slow", f"wait:{gate}")
        await pool.tool_schema(tool.name, tool.parameters_json, 60.0)
        assert (await refused(world, tool))[0].reason == "QUEUE_TIMEOUT"
        await asyncio.to_thread(gate.write_text, "x")
        await pool.check(build_tool_call([tool], "slow", world.renderer.call_wrapper), 60.0)
        assert len((await check(world, tool)).tools) == 1
        await pool.aclose()


async def test_a_worker_that_drains_or_serves_another_revision_gives_no_verdict(world: World) -> None:
    revision = world.server.shell.identity.revision
    assert (await check(world, GREP, model_revision=revision)).prompt_tokens
    assert (await refused(world, GREP, model_revision="another"))[0].reason == "MODEL_REVISION_MISMATCH"
    await world.server.drain()
    assert (await refused(world, GREP))[0].reason == "WORKER_DRAINING"


async def test_what_passed_is_not_rendered_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    response = await check(world, GREP, system="Be kind.")
    monkeypatch.delattr(type(world.renderer), "step_pieces")
    assert await check(world, GREP, system="Be kind.") == response
    assert (await refused(world, GREP, system="Be kind.", limit_tokens=1))[0].reason == "STEP_TOO_LONG"
    details, _ = await refused(world, GREP, system="Be cruel.")
    assert (details.reason, [field for field, _ in details.violations]) == ("INVALID_REQUEST", ["system"])
