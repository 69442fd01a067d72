"""An exception that nobody expected ends the stream, or the step, that it belongs to; the worker goes on.

The stages of a step are in tests/gateway/test_injected_errors.py, through a gateway.
"""

from typing import Any

import grpc
import pytest

from roost.fault_points import InjectedError
from roost.v1 import worker_service_pb2 as pb
from roost_worker.server import generate, render
from worker_harness import POOL, Ledger, World, reason

OTHER = f"{POOL}/02hzzzzzzzzzzzzzzzzzzzzzzz"


def broken(*_: Any, **__: Any) -> Any:
    raise InjectedError


async def test_a_stream_whose_messages_cannot_be_handled_ends(world: World, monkeypatch: pytest.MonkeyPatch):
    world.gate.close()
    stream = await world.begin(Ledger())
    await stream.until("accepted")
    monkeypatch.setattr(generate._Stream, "_handle", broken)
    await stream.send(cancel=pb.Cancel())
    error = await stream.fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "WORKER_FAILED")


async def test_a_deadline_that_cannot_be_set_leaves_no_attempt(world: World, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(world.server.shell, "set_deadline", broken)
        assert reason(await (await world.begin(Ledger())).fail()) == "WORKER_FAILED"
    assert len(world.server.shell.attempts) == 0
    world.server.shell.attempts.check_integrity()


async def test_an_attempt_ends_even_when_the_engine_does_not_take_its_cancel(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.gate.close()
    stream = await world.begin(Ledger(), deadline_ms=0)
    await stream.until("accepted")
    with monkeypatch.context() as patch:
        patch.setattr(world.server.shell.engine, "send", broken)
        world.server.shell.set_deadline(world.server.shell.attempts.of_session(Ledger().session_id), 1)
        assert reason(await stream.fail()) == "DEADLINE_EXCEEDED"


async def test_a_log_whose_rendering_breaks_is_refused_as_the_requests_own(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(render, "LogRenderer", broken)
    request = pb.RenderRequest(model_revision=world.server.shell.identity.revision)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await world.call("Render", request)
    assert (error.value.code(), reason(error.value)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


@pytest.mark.parametrize("breaks", ["take", "finish"])
async def test_output_that_cannot_be_taken_ends_its_own_step(
    world: World, monkeypatch: pytest.MonkeyPatch, breaks: str
):
    world.script(1, "sound")
    world.scripts[2] = world.script(1, "broken")
    world.script(1, "sound")
    world.gate.close()
    sound = await world.begin(Ledger(), seed=1)
    await sound.until("accepted")
    bad = await world.begin(Ledger(OTHER), seed=2)
    await bad.until("accepted")
    attempt = world.server.shell.attempts.of_session(OTHER)
    assert attempt is not None
    monkeypatch.setattr(attempt, breaks, broken)
    world.gate.open()
    error = await bad.fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    await sound.until("finished")
    assert sound.finished.text == "sound"
