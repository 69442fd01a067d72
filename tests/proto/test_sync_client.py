"""The blocking wrappers: the same results, one background thread, nothing left behind."""

import asyncio
import signal
import threading
from collections.abc import Iterator

import pytest

from roost import Committed, Delta, Started, errors
from roost.sync import SyncClient, SyncSession
from roost.testing import FakeGateway, Turn
from threaded_fake import ThreadedFake, fake_in_thread

ASKED = threading.Event()
LEFT = threading.Event()


async def reply(turn: Turn) -> str:
    """Echoes, or waits for ever when asked to."""
    if turn.messages[0].content != "wait":
        return turn.messages[0].content
    ASKED.set()
    try:
        await asyncio.Event().wait()
    finally:
        LEFT.set()
    raise AssertionError


@pytest.fixture
def fake() -> Iterator[ThreadedFake]:
    ASKED.clear()
    LEFT.clear()
    with fake_in_thread(lambda: FakeGateway(reply)) as running:
        yield running


@pytest.fixture
def session(fake: ThreadedFake) -> Iterator[SyncSession]:
    with SyncClient.connect(fake.gateway.targets) as client:
        yield client.open(task="t")


def background_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "roost-sync"]


def test_a_step_yields_its_events(session: SyncSession) -> None:
    events = list(session.step("hello", max_tokens=40))
    assert [type(event) for event in events] == [Started, Delta, Committed]
    assert session.run("more").text == "more"
    assert session.step("third").result().committed.index == 2


def test_everything_else_is_there_too(fake: ThreadedFake, session: SyncSession) -> None:
    session.run("hello")
    assert session.hold(tool="grep", expect_seconds=3).hold is not None
    assert session.evict() > 0
    assert session.info().steps == 1
    assert [step.output.content for step in session.steps()] == ["hello"]
    with SyncClient.connect(fake.gateway.targets) as other:
        assert [info.id for info in other.sessions(task="t")] == [session.id]
        handle = other.session(session.id)
        assert handle.head is None
        handle.head = session.head
        handle.close()
        with pytest.raises(errors.SessionClosedError):
            handle.run("x")
        handle.delete()
        with pytest.raises(errors.SessionNotFoundError):
            handle.info()


def test_clients_share_one_thread_that_ends_with_the_last(fake: ThreadedFake) -> None:
    assert background_threads() == []
    with SyncClient.connect(fake.gateway.targets):
        with SyncClient.connect(fake.gateway.targets) as inner:
            assert background_threads() == ["roost-sync"]
            inner.close()
        assert background_threads() == ["roost-sync"]
    assert background_threads() == []


def test_a_client_that_cannot_connect_leaves_no_thread() -> None:
    with pytest.raises(ValueError, match="at least one target"):
        SyncClient.connect([])
    assert background_threads() == []


def test_a_closed_client_says_so(fake: ThreadedFake) -> None:
    client = SyncClient.connect(fake.gateway.targets)
    session = client.open()
    client.close()
    with pytest.raises(RuntimeError, match="client is closed"):
        session.info()


def test_leaving_a_step_early_cancels_it(session: SyncSession) -> None:
    with session.step("wait") as events:
        assert isinstance(next(events), Started)
    assert LEFT.wait(30)


def test_ctrl_c_cancels_the_step_and_not_the_client(session: SyncSession) -> None:
    main = threading.get_ident()
    # A shell ignores Ctrl-C for what it runs in the background, and Python then does not raise.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        ASKED.wait(30)
        signal.pthread_kill(main, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    try:
        with pytest.raises(KeyboardInterrupt), session.step("wait") as events:
            list(events)
    finally:
        signal.signal(signal.SIGINT, inherited)
    interrupter.join()
    assert LEFT.wait(30)
    while session.info().running_step_id:
        pass
    assert session.run("hello").text == "hello"
