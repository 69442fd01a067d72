"""The Hold call of a running worker: shown, ended by the next step, and passed on to the engine."""

import pytest

from roost.v1 import worker_service_pb2 as pb
from roost_worker.engine.messages import EngineMessage, Hold
from worker_harness import Ledger, World


async def test_a_hold_is_shown_and_ends_with_the_next_step(world: World):
    world.script(1, "ok")
    ledger = Ledger()
    await world.step(ledger)
    await world.call("Hold", pb.HoldRequest(session_id=ledger.session_id, expect_seconds=30))
    assert [session.held for session in (await world.state()).sessions] == [True]
    await world.step(ledger)
    assert [session.held for session in (await world.state()).sessions] == [False]


async def test_a_hold_reaches_the_engine_with_its_tool_and_its_seconds(world: World, monkeypatch: pytest.MonkeyPatch):
    world.script(1, "ok")
    ledger = Ledger()
    await world.step(ledger)
    sent: list[EngineMessage] = []
    with monkeypatch.context() as patched:
        patched.setattr(world.server.shell.engine, "send", sent.append)
        await world.call("Hold", pb.HoldRequest(session_id=ledger.session_id, expect_seconds=2.5, tool="grep"))
    assert sent == [Hold(ledger.session_id, 2.5, "grep")]
