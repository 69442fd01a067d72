"""A gateway that is killed, stops or hangs in the middle of a stream is left for another."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from roost import Client, Delta, Event, _transport
from scripted_gateway import QUICK, SESSION, Hang, ScriptedGateway, committed, delta, session_on, started, text_of


@asynccontextmanager
async def gateway_process(script: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A gateway that plays one script, as a process of its own, and its address."""
    program = f"import scripted_gateway as s; s.serve([{script}])"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stdout=PIPE
    )
    try:
        assert child.stdout is not None
        yield child, (await child.stdout.readline()).decode().strip()
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def test_a_gateway_killed_mid_stream_is_left() -> None:
    async with gateway_process("s.started(1), s.delta('ab'), s.Hang()") as (child, target):
        second = ScriptedGateway([delta("c", 2), committed("abc")])
        async with second, await Client.connect([target, second.target], retry=QUICK) as client:
            events: list[Event] = []
            async for event in client.session(SESSION).step("hi"):
                events.append(event)
                if isinstance(event, Delta) and event.text == "ab":
                    child.kill()
                    await child.wait()
    assert text_of(events) == "abc"
    assert second.steps[0].received.tokens == 2


@pytest.mark.timeout(30)
async def test_a_gateway_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    hurried = [
        (name, value // 40 if "keepalive" in name or "ping_timeout" in name else value)
        for name, value in _transport._CHANNEL_OPTIONS
    ]
    monkeypatch.setattr(_transport, "_CHANNEL_OPTIONS", hurried)
    async with gateway_process("s.started(1), s.delta('ab'), s.Hang()") as (child, target):
        second = ScriptedGateway([delta("c", 2), committed("abc")])
        async with second, await Client.connect([target, second.target], retry=QUICK) as client:
            events: list[Event] = []
            async for event in client.session(SESSION).step("hi", deadline=None):
                events.append(event)
                if isinstance(event, Delta) and event.text == "ab":
                    child.send_signal(signal.SIGSTOP)
    assert text_of(events) == "abc"


async def test_a_gateway_whose_server_stops_mid_stream_is_left() -> None:
    first, second = (
        ScriptedGateway([started(1), delta("ab"), Hang()]),
        ScriptedGateway([delta("c", 2), committed("abc")]),
    )
    async with first, second, session_on(first, second) as session:
        events: list[Event] = []
        async for event in session.step("hi"):
            events.append(event)
            if isinstance(event, Delta) and event.text == "ab":
                await first.hanging.wait()
                await first.server.stop(None)
    assert text_of(events) == "abc"
    assert second.steps[0].received.tokens == 2
