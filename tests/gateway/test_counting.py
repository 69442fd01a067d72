"""A conversation's tokens are counted by a worker of its pool, before anybody takes a step with it."""

import pytest

from gateway_driver import Rig, world
from redis_servers import RedisServer
from roost.contract.messages import Message, MessageRole, ToolDefinition
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost_gateway.core import counting
from roost_gateway.core.caller import ANYONE, Caller
from roost_gateway.recognition.conversation import Conversation

ASKED = Conversation(
    model="null",
    system="x-anthropic-billing-header: cch=1\nbrief",
    tools=(ToolDefinition("read", "", "{}"),),
    messages=(Message(MessageRole.USER, "hello"),),
)


async def test_a_worker_counts_what_it_would_be_given(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "day_of", lambda _: "2031-05-04")
    async with world(redis_server) as w:
        assert await w.gateway.life.counter.count(ASKED, ANYONE) == len("brief" + "hello")
        [asked] = w.worker.counts
        assert [tool.name for tool in asked.tools] == ["read"]
        assert (asked.model_revision, asked.date) == ("", "2031-05-04")


async def test_a_pool_of_others_is_not_counted_in(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        with pytest.raises(Refused) as refused:
            await w.gateway.life.counter.count(ASKED, Caller("tenant", frozenset({"test/other"})))
        assert refused.value.reason is Reason.POOL_NOT_FOUND
        assert not w.worker.counts


async def test_without_a_worker_the_client_is_to_ask_again(rig: Rig) -> None:
    gateway = await rig.gateway()
    with pytest.raises(Refused) as refused:
        await gateway.life.counter.count(ASKED, ANYONE)
    assert refused.value.reason is Reason.NO_WORKER
    assert refused.value.retry_seconds


async def test_a_worker_that_does_not_answer_is_a_failure_that_may_pass(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        await w.worker.kill()
        with pytest.raises(Refused) as refused:
            await w.gateway.life.counter.count(ASKED, ANYONE)
        assert refused.value.reason is Reason.WORKER_FAILED
        assert refused.value.retry_seconds
