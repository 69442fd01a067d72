"""A rank ends when its shell is gone, by either of the two signs alone: the parent's death, the closed socket. It ends,
too, when it cannot read what the shell says."""

import os
import subprocess
import sys
import textwrap
from multiprocessing.connection import Listener
from pathlib import Path

import psutil
import pytest

from roost_worker.seam.rank import EXIT_MESSAGE_UNREADABLE, EXIT_SHELL_GONE, Hello, RankArgs
from roost_worker.seam.subprocess_spawner import SubprocessSpawner
from seam_worlds import FAKE_RUNNER, LONG_SECONDS, worker_config

PARENT = textwrap.dedent(
    """
    import sys, threading
    from pathlib import Path
    from roost_worker.seam.rank import RankArgs
    from roost_worker.seam.subprocess_spawner import SubprocessSpawner
    from seam_worlds import worker_config

    rank = SubprocessSpawner().spawn(RankArgs(worker_config(), Path(), 0, 1, sys.argv[1], b"key"))
    print(rank.pid, flush=True)
    threading.Event().wait()
    """
)


def test_a_rank_dies_with_its_parent_though_the_socket_is_open(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    address = str(tmp_path / "shell")
    command = [sys.executable, "-c", PARENT, address]
    with (
        Listener(address, "AF_UNIX"),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent,
    ):
        try:
            assert parent.stdout is not None
            rank = psutil.Process(int(parent.stdout.readline()))
        finally:
            parent.kill()
        _, alive = psutil.wait_procs([rank], timeout=LONG_SECONDS)
        for process in alive:
            process.kill()
        assert alive == []


@pytest.mark.parametrize("source", ["fake", "hang-rank-0"])
def test_a_rank_exits_when_the_socket_closes_though_its_parent_lives(tmp_path: Path, source: str) -> None:
    address = str(tmp_path / "shell")
    args = RankArgs(worker_config(source), Path(), 0, 1, address, b"key", runner=FAKE_RUNNER)
    with Listener(address, "AF_UNIX", authkey=b"key") as listener:
        rank = SubprocessSpawner().spawn(args)
        try:
            with listener.accept() as connection:
                assert connection.recv() == Hello(0)
            assert rank._process.wait(LONG_SECONDS) == EXIT_SHELL_GONE
        finally:
            rank.kill()


def test_a_rank_that_was_created_ahead_ends_in_silence_if_it_is_not_needed(capfd: pytest.CaptureFixture[str]) -> None:
    [process] = SubprocessSpawner(ahead=1)._waiting
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(LONG_SECONDS) == 0
    assert capfd.readouterr() == ("", "")


def test_a_rank_that_was_created_ahead_and_has_ended_since_is_replaced(tmp_path: Path) -> None:
    address = str(tmp_path / "shell")
    spawner = SubprocessSpawner(ahead=1)
    [ahead] = spawner._waiting
    ahead.kill()
    ahead.wait(LONG_SECONDS)
    with Listener(address, "AF_UNIX", authkey=b"key") as listener:
        rank = spawner.spawn(RankArgs(worker_config(), Path(), 0, 1, address, b"key", runner=FAKE_RUNNER))
        try:
            assert rank.alive()
            with listener.accept() as connection:
                assert connection.recv() == Hello(0)
        finally:
            rank.kill()


def test_ranks_beyond_those_created_ahead_start_as_well(tmp_path: Path) -> None:
    address = str(tmp_path / "shell")
    spawner = SubprocessSpawner(ahead=1)
    [ahead] = spawner._waiting
    with Listener(address, "AF_UNIX", authkey=b"key") as listener:
        ranks = [
            spawner.spawn(RankArgs(worker_config(), Path(), rank, 2, address, b"key", runner=FAKE_RUNNER))
            for rank in range(2)
        ]
        try:
            assert ranks[0].pid == ahead.pid
            hellos = []
            for _ in ranks:
                with listener.accept() as connection:
                    hellos.append(connection.recv().rank)
            assert sorted(hellos) == [0, 1]
        finally:
            for rank in ranks:
                rank.kill()


def test_a_rank_that_cannot_read_a_message_exits_rather_than_seem_alive(tmp_path: Path) -> None:
    address = str(tmp_path / "shell")
    args = RankArgs(worker_config(), Path(), 0, 1, address, b"key", runner=FAKE_RUNNER)
    with Listener(address, "AF_UNIX", authkey=b"key") as listener:
        rank = SubprocessSpawner().spawn(args)
        try:
            with listener.accept() as connection:
                assert connection.recv() == Hello(0)
                connection.send_bytes(b"no message")
                assert rank._process.wait(LONG_SECONDS) == EXIT_MESSAGE_UNREADABLE
        finally:
            rank.kill()
