"""Requests that are sent again: one step, however often, and never another conversation's."""

import asyncio
from dataclasses import replace

from conversation_driver import CALLS, agent, last
from gateway_driver import LIMIT_SECONDS, world
from null_script import Script
from redis_servers import RedisServer
from roost.contract.events import Delta, Event, TextPart
from roost.contract.messages import Message, MessageRole, Sampling
from roost_gateway.recognition.conversation import Match

U, T = MessageRole.USER, MessageRole.TOOL


def tokens_of(events: list[Event]) -> list[int]:
    return [token for event in events if isinstance(event, Delta) for token in event.token_ids]


def parts_of(events: list[Event]) -> list[TextPart]:
    parts = [part for event in events if isinstance(event, Delta) for part in event.parts]
    return [part for part in parts if isinstance(part, TextPart)]


async def test_a_marked_retry_of_an_opening_gets_the_result_that_was_stored(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        client = agent(w)
        client.history = [Message(U, "hi")]
        first, again = await client.ask(), await client.ask(is_retry=True)
        assert client.kinds == [Match.NEW, Match.ATTACHED]
        assert (again.replayed, again.seed, again.output) == (True, first.seed, first.output)
        assert len(w.worker.starts) == 1
        await client.ask()
        assert client.kinds[-1] is Match.NEW


async def test_a_retry_of_one_of_several_equal_openings_joins_none(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        client = agent(w)
        client.history = [Message(U, "hi")]
        for is_retry in (False, False, True):
            await client.ask(is_retry=is_retry)
        assert client.sessions == 3


async def test_an_equal_request_on_a_conversation_with_a_session_is_the_same_step(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(calls=CALLS)) as w:
        client = agent(w)
        await client.say("hi")
        await client.say("result")
        client.history.pop()
        w.worker.script.calls = ()
        for _ in range(12):
            await client.ask()
        assert client.kinds == [Match.NEW, Match.CONTINUED, *[Match.ATTACHED] * 12]
        assert client.matches[-1].log_tokens == 12
        assert len(w.worker.starts) == 2
        await client.ask(sampling=Sampling(temperature=0.5))
        assert client.kinds[-1] is Match.FORKED


async def test_a_request_attaches_to_the_step_while_it_runs(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(calls=CALLS)) as w:
        client, twin = agent(w), agent(w)
        await client.say("hi")
        w.worker.script.hang_after = 3
        client.history += [Message(T, "result", tool_call_id=call.id) for call in client.history[-1].tool_calls]
        twin.history = list(client.history)
        async with client.step() as step:
            events, received = aiter(step.events), list[Event]()
            while not tokens_of(received):
                received.append(await anext(events))
            async with twin.step() as attached:
                w.worker.resume_output.set()
                committed = await last(attached)
            async with asyncio.timeout(LIMIT_SECONDS):
                received += [event async for event in events]
        assert attached.recognised.match is Match.ATTACHED
        assert received[-1] == replace(committed, replayed=True, queue_ms=0, first_token_ms=0)
        assert tokens_of(received) == list(range(1000, 1008))
        assert "".join(part.text for part in parts_of(received)) == committed.output.content
        assert len(w.worker.starts) == 2
        assert len(w.worker.resumes) == 1


async def test_another_request_forks_while_a_step_runs(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(calls=CALLS)) as w:
        client = agent(w)
        await client.say("hi")
        before = list(client.history)
        w.worker.script.hang_after = 3
        client.history = [*before, Message(U, "forget the calls")]
        async with client.step():
            await w.worker.until_it_hangs()
            w.worker.script.hang_after = None
            client.history = list(before)
            await client.say("result")
        assert client.kinds == [Match.NEW, Match.FORKED]
        assert client.matches[1].reason == "another step of the session runs after message 2"


async def test_a_client_that_leaves_cancels_its_step_and_may_ask_again(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(hang_after=3, calls=CALLS)) as w:
        client = agent(w, family="f")
        client.history = [Message(U, "hi")]
        async with client.step() as step:
            async with asyncio.timeout(LIMIT_SECONDS):
                while not getattr(await anext(step.events), "token_ids", ()):
                    pass
        await w.worker.until(lambda: w.worker.cancels)
        w.worker.script.hang_after = None
        await client.ask()
        assert client.matches[0].session_id == step.recognised.session_id
