"""What a running worker tells its retention policy: holds, which are shown and end with the next step, and roles."""

import pytest

from roost.v1 import worker_service_pb2 as pb
from roost_worker.engine.messages import EngineMessage, Hold, Submit
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


async def test_the_role_of_a_session_reaches_the_engine(world: World, monkeypatch: pytest.MonkeyPatch):
    world.script(1, "ok")
    sent: list[EngineMessage] = []
    engine = world.server.shell.engine
    pass_on = engine.send

    def send(message: EngineMessage) -> None:
        sent.append(message)
        pass_on(message)

    with monkeypatch.context() as patched:
        patched.setattr(engine, "send", send)
        await world.step(Ledger(), role="coder")
    assert [message.role for message in sent if isinstance(message, Submit)] == ["coder"]
