"""What becomes of a fork when the step that a conversation wanted of it is not committed."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from conversation_driver import Agent, agent
from gateway_driver import LIMIT_SECONDS, World, world
from null_script import Script
from redis_servers import RedisServer
from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost_gateway.core import unused_forks
from roost_gateway.core.caller import ANYONE, Caller
from roost_gateway.core.unused_forks import UnusedForks
from roost_gateway.recognition.conversation import Match


async def _goes_back(w: World) -> Agent:
    """A client that has taken two steps and drops what came after the first."""
    client = agent(w)
    await client.say("one")
    await client.say("two")
    client.history = client.history[:2]
    return client


async def _deletes(w: World, session_id: str) -> None:
    """Waits until the worker is told to erase the session `session_id`, and checks that the store has deleted it."""
    async with asyncio.timeout(LIMIT_SECONDS):
        await w.worker.until(lambda: w.worker.evictions)
    assert [(eviction.session_id, eviction.erased) for eviction in w.worker.evictions] == [(session_id, True)]
    with pytest.raises(Refused) as refused:
        await w.gateway.life.gateway.get(session_id, ANYONE)
    assert refused.value.reason is Reason.SESSION_NOT_FOUND


async def test_a_fork_is_deleted_when_its_step_fails(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        client = await _goes_back(w)
        w.worker.script.refuse = Reason.STEP_TOO_LONG
        with pytest.raises(Refused) as refused:
            await client.say("another two")
        assert refused.value.reason is Reason.STEP_TOO_LONG
        assert client.kinds[2:] == [Match.FORKED]
        await _deletes(w, client.matches[2].session_id)
        assert (await w.gateway.life.gateway.get(client.matches[0].session_id, ANYONE)).steps == 2
        w.worker.script.refuse = None
        await client.ask()
        assert client.kinds[3:] == [Match.FORKED]
        assert client.matches[3].session_id != client.matches[2].session_id


async def test_a_fork_is_deleted_when_the_client_leaves_its_step(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(tokens=12)) as w:
        client = await _goes_back(w)
        w.worker.script.hang_after = 3
        client.history += client.answer("another two")
        async with client.step() as step:
            await w.worker.until_it_hangs()
        assert step.recognised.match is Match.FORKED
        await _deletes(w, step.recognised.session_id)


class Gateway:
    """Refuses to delete a fork for these reasons, one after the other."""

    def __init__(self, *refusals: Reason) -> None:
        self._refusals = list(refusals)
        self.asked: list[tuple[str, Head | None]] = []

    async def delete(self, session_id: str, caller: Caller, expected_head: Head | None = None) -> None:
        self.asked.append((session_id, expected_head))
        if self._refusals:
            raise Refused(self._refusals.pop(0), "scripted")


FORK: Any = SimpleNamespace(id="fork", head=Head(100, b"h" * 16))  # what these tests need of a session
BUSY, GONE_ON = Reason.ANOTHER_STEP_RUNNING, Reason.HEAD_MISMATCH


@pytest.mark.parametrize(
    ("refusals", "tries"),
    [((), 1), ((BUSY, BUSY), 3), ((BUSY, GONE_ON), 2), ((BUSY,) * 9, len(unused_forks._WAITS_SECONDS))],
    ids=["its attempt has ended", "it is still being ended", "another one has committed", "another one goes on"],
)
async def test_a_fork_is_deleted_only_at_the_head_that_it_began_with(
    monkeypatch: pytest.MonkeyPatch, refusals: tuple[Reason, ...], tries: int
) -> None:
    monkeypatch.setattr(unused_forks, "_WAITS_SECONDS", (0.0,) * len(unused_forks._WAITS_SECONDS))
    gateway: Any = Gateway(*refusals)  # what these tests need of a gateway
    forks = UnusedForks(gateway)
    with forks.until_used(FORK, ANYONE):
        pass
    await forks.aclose()
    assert gateway.asked == [(FORK.id, FORK.head)] * tries


async def test_a_fork_in_which_a_step_was_committed_is_left_alone() -> None:
    gateway: Any = Gateway()
    forks = UnusedForks(gateway)
    with forks.until_used(FORK, ANYONE):
        forks.used("another")
        forks.used(FORK.id)
    await forks.aclose()
    assert gateway.asked == []
