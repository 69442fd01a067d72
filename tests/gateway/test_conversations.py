"""Conversations that come whole, over a real Redis and null workers: in which session each step runs."""

from typing import Any

import pytest

from conversation_driver import CALLS, Agent, agent, last
from gateway_driver import POOL, Rig, World, publish_pool, world
from null_script import BASE_ID, Script, token_text
from redis_servers import RedisServer
from roost.contract.messages import JsonSchema, Message, MessageRole, Sampling, ToolDefinition
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.steps import StepName
from roost.store.conversation_index import IndexEntry
from roost.store.keys import PoolKeys
from roost.store.records import StoreAwayError
from roost.store.redis_conversation_index import RedisConversationIndex
from roost_gateway.core.caller import ANYONE, Caller
from roost_gateway.recognition.conversation import Match

S, U, A, T = MessageRole.SYSTEM, MessageRole.USER, MessageRole.ASSISTANT, MessageRole.TOOL


async def test_a_conversation_is_one_session_that_gets_only_what_is_new(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        client = agent(w)
        for number in range(3):
            await client.say(f"question {number}")
        assert client.kinds == [Match.NEW, Match.CONTINUED, Match.CONTINUED]
        assert client.sessions == 1
        assert [match.log_tokens for match in client.matches] == [0, 12, 24]
        assert [len(start.messages) for start in w.worker.starts] == [1, 1, 1]


async def test_another_gateway_continues_the_session(rig: Rig) -> None:
    await rig.worker(script=Script(calls=CALLS))
    servers = [await rig.gateway() for _ in range(2)]
    client = Agent(servers[0].life.conversations)
    for number in range(4):
        client.conversations = servers[number % 2].life.conversations
        await client.say(f"result {number}")
    assert client.kinds == [Match.NEW, *[Match.CONTINUED] * 3]
    assert client.sessions == 1


async def test_equal_openings_are_sessions_of_their_own_and_stay_so(redis_server: RedisServer) -> None:
    """Also where all of what is said is equal, as here: no text tells the two apart."""
    async with world(redis_server) as w:
        clients = [agent(w), agent(w), agent(w)]
        for number in range(3):
            for client in clients:
                await client.say(f"question {number}")
        kinds = [Match.NEW, Match.CONTINUED, Match.CONTINUED]
        assert [client.kinds for client in clients] == [kinds] * 3
        taken = [{client.matches[number].session_id for client in clients} for number in range(3)]
        assert [len(sessions) for sessions in taken] == [3, 3, 3]


async def test_equal_conversations_keep_their_sessions_while_both_run(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        clients = [agent(w), agent(w)]
        for client in clients:
            await client.say("hi")
        w.worker.script.hang_after = 3
        clients[0].history.append(Message(U, "go on"))
        async with clients[0].step() as step:
            await w.worker.until_it_hangs()
            w.worker.script.hang_after = None
            await clients[1].say("go on")
            w.worker.resume_output.set()
            await last(step)
        assert clients[1].kinds == [Match.NEW, Match.CONTINUED]
        assert step.recognised.match is Match.CONTINUED
        assert step.recognised.session_id != clients[1].matches[1].session_id


async def test_a_pool_that_refuses_old_logs_gives_the_conversation_to_a_new_session(rig: Rig) -> None:
    refuses = {"idleTTLSeconds": 3600, "onModelChange": "Refuse"}
    publish_pool(rig.redis, activeRevision="rev-1", sessions=refuses)
    await rig.worker()
    server = await rig.gateway()
    client = Agent(server.life.conversations)
    await client.say("hi")
    publish_pool(rig.redis, activeRevision="rev-2", sessions=refuses)
    await server.life.fleet.pools.reread(POOL)
    await rig.worker("null-2", revision="rev-2")
    await client.say("go on")
    await client.say("and on")
    assert client.kinds == [Match.NEW, Match.IMPORTED, Match.CONTINUED]
    assert client.matches[1].reason == "the session of the history up to message 2 is of another revision of the model"


async def test_an_edit_forks_where_the_history_differs(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(calls=CALLS)) as w:
        client = agent(w)
        for number in range(3):
            await client.say(f"result {number}")
        first = client.history[:2]
        client.history = [*first]
        await client.say("another result")
        await client.say("and its result")
        assert client.kinds[3:] == [Match.FORKED, Match.CONTINUED]
        assert client.matches[3].reason == "the session has gone on after message 2"
        assert client.matches[3].log_tokens == 12
        assert client.sessions == 2


async def test_a_history_that_no_session_has_is_imported_once(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        client = agent(w)
        client.history = [Message(U, "hi"), Message(A, "Hello."), Message(S, "The user is in a hurry.")]
        await client.say("bye")
        await client.say("again")
        assert client.kinds == [Match.IMPORTED, Match.CONTINUED]
        assert client.matches[0].reason == "no session has the history up to message 2"
        assert [len(start.messages) for start in w.worker.starts] == [4, 1]


async def test_a_session_that_is_gone_is_imported_again(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        client = agent(w)
        await client.say("one")
        await w.gateway.life.gateway.delete(client.matches[0].session_id, ANYONE)
        await client.say("two")
        await w.gateway.life.gateway.close(client.matches[1].session_id, ANYONE)
        await client.say("three")
        assert client.kinds == [Match.NEW, Match.IMPORTED, Match.FORKED]
        assert client.matches[1].reason == "the session of the history up to message 2 has ended"
        assert client.matches[2].reason == "the session of the history up to message 4 is closed"


async def test_tenants_do_not_meet(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        clients = [agent(w, caller=Caller(tenant, frozenset({"*"}))) for tenant in ("a", "b")]
        await clients[0].say("hi")
        clients[1].history = list(clients[0].history)
        await clients[1].say("go on")
        assert clients[1].kinds == [Match.IMPORTED]
        assert clients[1].matches[0].reason == "no session has the history up to message 2"


async def test_families_continue_their_own_sessions_and_fork_those_of_others(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        parent, child = agent(w, family="one"), agent(w, family="two")
        await parent.say("hi")
        child.history = list(parent.history)
        await child.say("as a child")
        await parent.say("as a parent")
        await child.say("more")
        assert child.kinds == [Match.FORKED, Match.CONTINUED]
        assert parent.kinds == [Match.NEW, Match.CONTINUED]
        sessions = [await w.gateway.life.gateway.get(match.session_id, ANYONE) for match in child.matches]
        assert [session.task for session in sessions] == ["two", "two"]


async def test_a_conversation_goes_on_after_a_previous_response(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        client = agent(w)
        await client.say("one")
        ends = [StepName(client.matches[0].session_id, client.matches[0].step_id)]
        for text in ("two", "another two"):
            client.history = [Message(U, text)]
            await client.ask(previous=ends[0])
        whole = [Message(U, "one"), client_output(w), Message(U, "two"), client_output(w), Message(U, "three")]
        client.history = whole
        await client.ask()
        assert client.kinds == [Match.NEW, Match.CONTINUED, Match.FORKED, Match.CONTINUED]
        assert client.matches[3].session_id == client.matches[0].session_id


def client_output(w: World) -> Message:
    """What the null worker says."""
    return Message(A, "".join(map(token_text, range(BASE_ID, BASE_ID + w.worker.script.tokens))))


async def test_a_previous_response_is_read_from_the_log_when_the_index_lost_it(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        client = agent(w)
        await client.say("one")
        end = StepName(client.matches[0].session_id, client.matches[0].step_id)
        with redis_server.client() as raw:
            raw.delete(*raw.keys(f"{PoolKeys(POOL).prefix}:c:*"))
        client.history = [Message(U, "two")]
        await client.ask(previous=end)
        await client.ask(previous=end, system="Be kind.")
        assert client.kinds == [Match.NEW, Match.IMPORTED, Match.IMPORTED]
        assert [len(start.messages) for start in w.worker.starts] == [1, 3, 3]
        with pytest.raises(Refused) as refused:
            await client.ask(previous=StepName(end.session_id, "another"))
        assert refused.value.reason is Reason.SESSION_NOT_FOUND


async def test_a_response_that_ends_in_calls_holds_the_session(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(calls=CALLS)) as w:
        client = agent(w)
        committed = await client.say("hi")
        await w.worker.until(lambda: w.worker.holds)
        session = await w.gateway.life.gateway.get(client.matches[0].session_id, ANYONE)
        assert session.hold is not None
        assert (session.hold.tool, session.head) == ("read", committed.head)
        w.worker.script.calls = ()
        await client.say("result")
        session = await w.gateway.life.gateway.get(client.matches[0].session_id, ANYONE)
        assert session.hold is None


async def test_sessions_of_conversations_live_for_the_pools_implicit_time(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        publish_pool(redis_server, sessions={"idleTTLSeconds": 86400, "implicitTTLSeconds": 600})
        await w.gateway.life.fleet.pools.reread(POOL)
        client = agent(w)
        await client.say("hi")
        session = await w.gateway.life.gateway.get(client.matches[0].session_id, ANYONE)
        assert session.expire_time is not None
        assert session.update_time is not None
        assert 590 < (session.expire_time - session.update_time).total_seconds() <= 600
        opened = await w.caller.open()
        assert opened.expire_time.seconds - opened.create_time.seconds > 80_000


async def test_lines_that_the_pool_names_keep_no_conversation_apart_and_are_not_in_its_log(
    redis_server: RedisServer,
) -> None:
    async with world(redis_server) as w:
        publish_pool(redis_server, sessions={"nonceLines": ["Request id: *"]})
        await w.gateway.life.fleet.pools.reread(POOL)
        client = agent(w)
        for number in range(2):
            reminder = Message(S, f"Request id: b{number}\nThe user waits.")
            client.history = [reminder, *client.history[1:]]
            await client.say("hi", system=f"Be brief.\nRequest id: a{number}\nBe kind.")
        assert client.kinds == [Match.NEW, Match.CONTINUED]
        first, _ = w.worker.starts
        assert first.system == "Be brief.\nBe kind."
        assert [message.content for message in first.messages] == ["The user waits.", "hi"]
        assert await w.gateway.life.gateway.system_text(client.matches[0].session_id, ANYONE) == first.system
        page = await w.gateway.life.gateway.list_steps(client.matches[0].session_id, ANYONE)
        assert "Request id" not in repr(page)


async def test_without_the_index_a_conversation_is_served_as_a_new_session(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> list[tuple[IndexEntry, ...]]:
        raise StoreAwayError("scripted")

    async with world(redis_server) as w:
        client = agent(w)
        await client.say("one")
        with monkeypatch.context() as patch:
            patch.setattr(RedisConversationIndex, "find", away)
            patch.setattr(RedisConversationIndex, "remember", away)
            await client.say("two")
        await client.say("three")
        assert client.kinds == [Match.NEW, Match.IMPORTED, Match.CONTINUED]
        assert [len(start.messages) for start in w.worker.starts] == [1, 3, 3]


async def test_what_no_session_takes_is_refused_before_one_is_opened(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        client = agent(w)
        client.history = [Message(U, "hi")]
        wrong: list[tuple[dict[str, Any], Reason]] = [
            ({"messages": ()}, Reason.INVALID_REQUEST),
            ({"messages": (Message(U, "hi"), Message(A, "Hel"))}, Reason.INVALID_REQUEST),
            ({"format": JsonSchema("nonsense")}, Reason.INVALID_SCHEMA),
            ({"sampling": Sampling(top_p=2.0)}, Reason.INVALID_REQUEST),
            ({"role": "pilot"}, Reason.ROLE_NOT_FOUND),
            ({"model": "other"}, Reason.POOL_NOT_FOUND),
            ({"tools": (ToolDefinition("a b", "", "{}"),)}, Reason.INVALID_REQUEST),
        ]
        for fields, reason in wrong:
            with pytest.raises(Refused) as refused:
                await client.ask(**fields)
            assert refused.value.reason is reason
        assert w.worker.starts == []
        with redis_server.client() as raw:
            assert raw.keys(f"{PoolKeys(POOL).prefix}:s:*") == []


@pytest.mark.parametrize("name", ["null", POOL, ""])
async def test_a_model_is_a_pools_model_or_a_pool(redis_server: RedisServer, name: str) -> None:
    async with world(redis_server) as w:
        client = agent(w, model=name)
        await client.say("hi")
        assert client.matches[0].session_id.startswith(f"{POOL}/")


async def test_models_are_those_of_the_callers_pools(rig: Rig) -> None:
    publish_pool(rig.redis, "test/other", model={"name": "null", "contextTokens": 4096})
    await rig.worker()
    conversations = (await rig.gateway()).life.conversations
    assert [(m.name, m.pool, m.context_tokens) for m in await conversations.models(ANYONE)] == [
        ("null", POOL, 2048),
        ("null", "test/other", 4096),
    ]
    own = Agent(conversations, Caller("a", frozenset({POOL})))
    await own.say("hi")
    for name, reason in (("null", Reason.INVALID_REQUEST), ("test/none", Reason.POOL_NOT_FOUND)):
        with pytest.raises(Refused) as refused:
            await Agent(conversations, model=name).say("hi")
        assert refused.value.reason is reason
    with pytest.raises(Refused) as refused:
        await Agent(conversations, Caller("a", frozenset({POOL})), model="test/other").say("hi")
    assert refused.value.reason is Reason.POOL_NOT_ALLOWED
