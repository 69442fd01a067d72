"""The blocking wrappers: the same results, one background thread, nothing left behind."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from roost import Committed, Delta, Started, errors
from roost._retry import Patience
from roost._transport import Gateway, Transport
from roost.contract.reasons import Reason
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


def test_a_session_of_the_wrappers_can_be_a_parent(session: SyncSession, fake: ThreadedFake) -> None:
    with SyncClient.connect(fake.gateway.targets) as client:
        assert client.open(parent=session).info().parent == session.id


async def test_calls_work_where_an_event_loop_runs(fake: ThreadedFake) -> None:
    with SyncClient.connect(fake.gateway.targets) as client:
        assert client.open().run("hello").text == "hello"


@pytest.mark.parametrize("last", [True, False], ids=["the last client", "another stays"])
def test_closing_the_client_ends_a_call_of_another_thread(fake: ThreadedFake, last: bool) -> None:
    others = [] if last else [SyncClient.connect(fake.gateway.targets)]
    client = SyncClient.connect(fake.gateway.targets)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.open().run, "wait")
        assert ASKED.wait(30)
        client.close()
        with pytest.raises(errors.StepCancelledError, match="client was closed"):
            running.result(30)
    for other in others:
        other.close()
    assert background_threads() == []


def test_closing_the_last_client_ends_a_wait_between_tries(fake: ThreadedFake, monkeypatch: pytest.MonkeyPatch) -> None:
    failed, recover = threading.Event(), Transport.recover

    async def noted(self: Transport, gateway: Gateway, error: errors.RoostError, patience: Patience) -> None:
        failed.set()  # it goes on to sleep without a pause in which anything else could run
        await recover(self, gateway, error, patience)

    monkeypatch.setattr(Transport, "recover", noted)
    client = SyncClient.connect(fake.gateway.targets)
    session = client.open()
    fake.gateway.fail_next(Reason.NO_WORKER, retry_after=25.0)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.info)
        assert failed.wait(30)
        client.close()
        with pytest.raises(errors.StepCancelledError, match="client was closed"):
            running.result(10)


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
