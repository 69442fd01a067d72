"""Thread and process engines: equal outputs, start-up failures told, deaths noticed, nothing left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Client
from pathlib import Path
from threading import Thread

import psutil
import pytest

from paged_fake_runner import PagedFakeRunner, build_runner, reference
from roost_worker.config import KvConfig, WorkerConfig
from roost_worker.engine.messages import Cancel, Evict, Hold, StopReason
from roost_worker.seam import process_engine as process_engine_module
from roost_worker.seam.client import EngineClient, EngineDeadError, EngineStartError
from roost_worker.seam.process_engine import start_process_engine
from roost_worker.seam.rank import Hello, RankArgs
from roost_worker.seam.thread_engine import ThreadEngine
from seam_worlds import LONG_SECONDS, SeenSpawner, collect, process_engine, request, thread_engine, worker_config

REQUESTS = [request(f"r{index}", [index, *range(1, 10 + 7 * index)]) for index in range(6)]


@pytest.fixture(params=["thread", "process"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[EngineClient]:
    client = await (thread_engine if request.param == "thread" else process_engine)(worker_config())
    yield client
    await client.aclose()


async def test_outputs_are_the_reference(engine: EngineClient) -> None:
    for submit in REQUESTS:
        engine.send(submit)
    ids = await collect(engine, {submit.request_id for submit in REQUESTS})
    for submit in REQUESTS:
        assert ids[submit.request_id] == reference(submit.token_ids, submit.prompt_len, submit.sampling, 512)


async def test_forced_tokens_come_over_the_seam_with_the_draw_before_them(engine: EngineClient) -> None:
    submit = request("r", [1, 2, 3], max_tokens=40, grammar="force:9")
    engine.send(submit)
    ids, most = list[int](), 0
    async with asyncio.timeout(LONG_SECONDS):
        async for outputs in engine.outputs():
            for output in outputs.outputs:
                ids += output.token_ids
                most = max(most, len(output.token_ids))
            if any(output.stop for output in outputs.outputs):
                break
    assert ids == reference(submit.token_ids, submit.prompt_len, submit.sampling, 512)
    assert most > 1


async def test_info_tells_the_capacity(engine: EngineClient) -> None:
    assert (engine.info.num_blocks, engine.info.capacity_tokens, engine.info.context_tokens) == (256, 255 * 16, 512)


async def test_an_idle_loop_gives_signs_of_life(engine: EngineClient) -> None:
    first = engine.heartbeat
    async with asyncio.timeout(LONG_SECONDS):
        while engine.heartbeat == first:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_message_reaches_an_idle_and_a_busy_loop(engine: EngineClient) -> None:
    # More work than can be done before the cancel is sent, however late that is: four run at once.
    for index in range(40):
        engine.send(request(f"r{index}", [index, 2, 3], max_tokens=500))
    outputs = engine.outputs()
    await anext(outputs)
    engine.send(Cancel("r39"))
    engine.send(Evict("nobody"))
    stops, dropped = [], []
    async with asyncio.timeout(LONG_SECONDS):
        while not stops or not dropped:
            said = await anext(outputs)
            stops += [output.stop for output in said.outputs if output.stop and output.request_id == "r39"]
            dropped += said.dropped
    assert stops == [StopReason.CANCELLED]
    assert dropped == [("nobody", 0)]


async def test_closing_ends_the_outputs_and_refuses_messages(engine: EngineClient) -> None:
    await engine.aclose()
    assert [outputs async for outputs in engine.outputs()] == []
    with pytest.raises(EngineDeadError, match="closed"):
        engine.send(Cancel("r"))
    await engine.aclose()


async def test_a_broken_runner_kills_the_engine_and_says_why(engine: EngineClient) -> None:
    engine.send(request("r", [1, 2, 3], grammar="die"))
    async with asyncio.timeout(LONG_SECONDS):
        with pytest.raises(EngineDeadError, match="RuntimeError: the group is broken"):
            async for _ in engine.outputs():
                pass
    with pytest.raises(EngineDeadError, match="the group is broken"):
        engine.send(Cancel("r"))


async def test_a_grammar_is_compiled_while_the_loop_is_idle(engine: EngineClient) -> None:
    engine.send(request("r", [1, 2, 3], grammar="tokens:2"))
    async with asyncio.timeout(LONG_SECONDS):
        assert len((await collect(engine, {"r"}))["r"]) == 2


@pytest.mark.parametrize("start", [thread_engine, process_engine])
@pytest.mark.parametrize(("policy", "trimmed"), [("LRU", "held"), ("LRUSparingHeld", "other")])
async def test_the_configuration_chooses_the_eviction_policy(
    start: Callable[[WorkerConfig], Awaitable[EngineClient]], policy: str, trimmed: str
) -> None:
    """Nine blocks: two sessions of four blocks each, and a request that needs one of them."""
    engine = await start(replace(worker_config(), kv=KvConfig(16, 160, policy)))
    for session, first in (("held", 1), ("other", 2)):
        engine.send(replace(request(session, [first] * 62, max_tokens=1), session=session))
        await collect(engine, {session})
    engine.send(Hold("held", 1000.0, "grep"))
    engine.send(request("r", [3] * 20, max_tokens=1))
    changed: dict[str, int] = {}
    async with asyncio.timeout(LONG_SECONDS):
        while not changed:
            changed = dict((await anext(engine.outputs())).parked)
    await engine.aclose()
    assert changed == {trimmed: 48}


async def test_a_thread_that_loaded_for_long_is_alive_when_it_has_started() -> None:
    def load_for_long() -> PagedFakeRunner:
        engine._delivery.heartbeat = -1000.0
        return build_runner(worker_config(), Path())

    engine = ThreadEngine(load_for_long, worker_config())
    await engine.start()
    assert engine.heartbeat > 0
    await engine.aclose()


async def test_a_message_that_cannot_be_read_ends_the_engine() -> None:
    class Garbler:
        """A rank that says Hello and then what is no message."""

        def spawn(self, args: RankArgs) -> "Garbler":
            Thread(target=self._garble, args=(args,)).start()
            return self

        def _garble(self, args: RankArgs) -> None:
            with Client(args.address, "AF_UNIX", authkey=args.authkey) as connection:
                connection.send(Hello(0))
                connection.send_bytes(b"no message")
                with suppress(EOFError, OSError):
                    connection.recv()

        def alive(self) -> bool:
            return True

        def kill(self) -> None: ...

    with pytest.raises(EngineStartError, match="cannot be read"):
        await start_process_engine(worker_config(), Path(), Garbler(), timeout=LONG_SECONDS)


async def test_a_message_that_cannot_be_sent_ends_the_engine() -> None:
    engine = await process_engine(worker_config())
    engine.send(lambda: None)  # type: ignore[arg-type]
    async with asyncio.timeout(LONG_SECONDS):
        with pytest.raises(EngineDeadError, match="a message to rank 0 cannot be sent"):
            async for _ in engine.outputs():
                pass
    await engine.aclose()


async def test_thread_that_cannot_make_its_runner_says_why() -> None:
    with pytest.raises(EngineStartError, match=r"ValueError: tensor model\.norm\.weight is missing"):
        await thread_engine(worker_config("fail-rank-0"))


@pytest.mark.parametrize("rank", [0, 1])
async def test_rank_that_fails_to_load_says_why_and_none_is_left(rank: int) -> None:
    spawner = SeenSpawner()
    with pytest.raises(EngineStartError, match=rf"tensor model\.norm\.weight is missing \(rank {rank}\)"):
        await process_engine(worker_config(f"fail-rank-{rank}", ranks=2), spawner)
    assert [rank.alive() for rank in spawner.ranks] == [False, False]


async def test_rank_that_dies_while_it_loads_is_noticed() -> None:
    spawner = SeenSpawner()
    with pytest.raises(EngineStartError, match="rank 1 died"):
        await process_engine(worker_config("exit-rank-1", ranks=2), spawner)
    assert [rank.alive() for rank in spawner.ranks] == [False, False]


async def test_rank_that_never_gets_ready_is_given_up() -> None:
    spawner = SeenSpawner()
    with pytest.raises(EngineStartError, match="not ready after"):
        await process_engine(worker_config("hang-rank-1", ranks=2), spawner, timeout=0.5)
    assert [rank.alive() for rank in spawner.ranks] == [False, False]


async def test_rank_that_does_not_end_by_itself_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    spawner = SeenSpawner()
    engine = await process_engine(worker_config(ranks=2), spawner)
    monkeypatch.setattr(process_engine_module, "CLOSE_SECONDS", 0.2)
    await engine.aclose()
    assert [rank.alive() for rank in spawner.ranks] == [False, False]


async def test_rank_that_dies_before_it_connects_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EngineStartError, match="ended before it connected"):
        await process_engine(worker_config())


async def test_executable_that_is_missing_is_a_start_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(EngineStartError, match="could not be spawned"):
        await process_engine(worker_config())


@pytest.mark.parametrize("victim", [0, 1])
async def test_killed_rank_kills_the_engine(victim: int) -> None:
    spawner = SeenSpawner()
    engine = await process_engine(worker_config(ranks=2), spawner)
    engine.send(request("r", [1, 2, 3], max_tokens=400))
    outputs = engine.outputs()
    await anext(outputs)
    os.kill(spawner.ranks[victim].pid, signal.SIGKILL)
    async with asyncio.timeout(LONG_SECONDS):
        with pytest.raises(EngineDeadError, match=f"rank {victim} died"):
            async for _ in outputs:
                pass
    with pytest.raises(EngineDeadError, match=f"rank {victim} died"):
        engine.send(Cancel("r"))
    assert [rank.alive() for rank in spawner.ranks] == [False, False]
    await engine.aclose()


async def test_closed_engine_leaves_no_process_and_no_folder() -> None:
    spawner = SeenSpawner()
    engine = await process_engine(worker_config(), spawner)
    await engine.aclose()
    assert not spawner.ranks[0].alive()
    assert not engine._folder.exists()  # type: ignore[attr-defined]  # the concrete class


PARENT = textwrap.dedent(
    """
    import asyncio
    from seam_worlds import SeenSpawner, process_engine, request, worker_config

    async def main():
        spawner = SeenSpawner()
        engine = await process_engine(worker_config(ranks=2), spawner)
        engine.send(request("r", [1, 2, 3], max_tokens=500))
        await anext(engine.outputs())
        print(*(rank.pid for rank in spawner.ranks), flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())
    """
)


def test_ranks_die_with_a_killed_shell() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        try:
            assert parent.stdout is not None
            ranks = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
            assert len(ranks) == 2
        finally:
            parent.kill()
    _, alive = psutil.wait_procs(ranks, timeout=LONG_SECONDS)
    assert alive == []
