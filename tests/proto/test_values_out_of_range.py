"""What no gateway can take is refused by the fake one as by real ones, in the same words."""

import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway_worlds import World, fake_world, real_world
from redis_servers import RedisServer
from roost import JsonSchema, Message, MessageRole, RoostError, Tool


async def refused(call: Awaitable[Any]) -> tuple[str, str]:
    """The class of what a call raises, and all that it says."""
    with pytest.raises(RoostError) as raised:
        await call
    return type(raised.value).__name__, str(raised.value)


async def opens_with_values_out_of_range(world: World) -> Any:
    client = await world.client()
    return [
        await refused(client.open(**bad))
        for bad in (
            {"pool": "nope"},
            {"request_id": "a b"},
            {"task": "x" * 257},
            {"system": "x" * (1 << 20) + "x"},
            {"labels": {str(number): "" for number in range(17)}},
            {"labels": {"x" * 64: ""}},
            {"tools": [Tool("grep"), Tool("grep")]},
            {"tools": [Tool("grep", parameters="[1]")]},
        )
    ]


async def steps_with_values_out_of_range(world: World) -> Any:
    session = await (await world.client()).open()
    bad: tuple[dict[str, Any], ...] = (
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"repetition_penalty": 0.0},
        {"max_tokens": 0},
        {"max_tokens": 4, "min_tokens": 5},
        {"logprobs": 21},
        {"stop": [""]},
        {"stop": ["x"] * 17},
        {"stop_token_ids": range(65)},
        {"logit_bias": {1: math.inf}},
        {"step_id": "", "temperature": -1.0, "top_p": 2.0},
        {"format": JsonSchema("[1]")},
    )
    calls = [session.run("x", **{"step_id": "s", **options}) for options in bad]
    calls += [
        session.run(Message(MessageRole.USER, "x", name="x" * 257)),
        session.run(Message(MessageRole.ASSISTANT, "")),
    ]
    calls += [session.hold(expect_seconds=-1.0), session.hold(expect_seconds=math.nan), session.hold(tool="x" * 257)]
    calls += [anext(session.steps(page_size=101)), anext((await world.client()).sessions(page_size=1001))]
    return [await refused(call) for call in calls], (await session.run("x", step_id="s")).committed.index


@pytest.mark.parametrize(
    "scenario", [opens_with_values_out_of_range, steps_with_values_out_of_range], ids=lambda scenario: scenario.__name__
)
async def test_a_client_is_told_the_same(
    scenario: Callable[[World], Awaitable[Any]], redis_server: RedisServer, tmp_path: Path
) -> None:
    async with fake_world() as fake:
        on_fake = await scenario(fake)
    async with real_world(redis_server, tmp_path) as real:
        on_real = await scenario(real)
    assert on_fake == on_real
