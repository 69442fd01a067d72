"""CountTokens counts what a step's prompt would have, also when it does not fit."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from redis_servers import RedisServer
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from worker_harness import Ledger, World, reason, scripted_world, worker_config

CONTEXT = 256
GREP = api.Tool(name="grep", description="Searches.", parameters_json="{}")


@pytest.fixture
async def world(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    config = worker_config(redis_server.url, tmp_path_factory.getbasetemp() / "roost-cache", CONTEXT)
    async with scripted_world(config) as started:
        yield started


def user(text: str) -> api.Message:
    return api.Message(role=api.MESSAGE_ROLE_USER, content=text)


async def count(world: World, *messages: api.Message, **fields: Any) -> int:
    response = await world.call("CountTokens", pb.CountTokensRequest(messages=messages, **fields))
    return int(response.tokens)


async def test_the_count_is_that_of_a_steps_prompt(world: World) -> None:
    stream = await world.begin(Ledger(), "hello there", seed=1, system="Be kind.")
    accepted = (await stream.until("accepted")).accepted
    assert await count(world, user("hello there"), system="Be kind.") == len(accepted.prompt_token_ids)


async def test_tools_and_history_are_counted(world: World) -> None:
    answer = api.Message(role=api.MESSAGE_ROLE_ASSISTANT, content="hello")
    plain, tools = await count(world, user("hi")), await count(world, user("hi"), tools=[GREP])
    history = await count(world, user("hi"), answer, user("and now?"))
    assert plain < tools
    assert plain < history


async def test_what_does_not_fit_is_counted_all_the_same(world: World) -> None:
    assert await count(world, user("x" * 3 * CONTEXT)) > 3 * CONTEXT
    long = 200_000  # encoded in slices
    assert await count(world, user("x" * long)) > long


async def test_what_cannot_be_shown_is_refused(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await count(world)
    assert reason(error.value) == "INVALID_REQUEST"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await count(world, user("hi"), date="today")
    assert reason(error.value) == "INVALID_REQUEST"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await count(world, user("hi"), model_revision="another")
    assert reason(error.value) == "MODEL_REVISION_MISMATCH"
