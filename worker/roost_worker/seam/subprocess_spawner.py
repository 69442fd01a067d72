"""Spawns ranks as child processes that die with their parent. For workers without Ray."""

import logging
import os
import pickle
import subprocess
import sys
from contextlib import suppress

from roost_worker.child_process import die_with_parent, spawn_module
from roost_worker.seam.rank import RUNNER_MODULE, RankArgs, import_ahead, run_rank

REAP_SECONDS = 5.0


class SubprocessRank:
    """Implements RankHandle."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(REAP_SECONDS)


class SubprocessSpawner:
    """Implements Spawner. Call it from a thread that lives as long as the ranks should: they die with that thread.

    The children find modules where this process does. Their arguments, which include the key, are sent to their stdin.
    """

    def __init__(self, ahead: int = 0) -> None:
        """Create the processes of the first `ahead` ranks now: they import torch, and wait for their arguments.

        Raise OSError when one cannot be created.
        """
        self._waiting = [_create(RUNNER_MODULE) for _ in range(ahead)]

    def spawn(self, args: RankArgs) -> SubprocessRank:
        """Raise OSError when the process cannot be created."""
        process = self._take() or _create()
        assert process.stdin is not None
        # If the child has ended already, `alive` says so.
        with suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(pickle.dumps(args))
        return SubprocessRank(process)

    def _take(self) -> "subprocess.Popen[bytes] | None":
        """Return a process that was created ahead, but none that has ended since: a conversion may take minutes."""
        while self._waiting:
            process = self._waiting.pop()
            if process.poll() is None:
                return process
            assert process.stdin is not None
            process.stdin.close()
        return None


def _create(*imported: str) -> "subprocess.Popen[bytes]":
    """Create the process of a rank that imports these modules before it reads its arguments."""
    return spawn_module(__name__, *imported, stdin=subprocess.PIPE)


def main() -> None:
    """Run a rank as a child. RankArgs come, pickled, from the parent on stdin.

    The program's arguments are the parent's pid and what to import until then.
    """
    die_with_parent(int(sys.argv[1]))
    import_ahead(sys.argv[2:])
    try:
        args: RankArgs = pickle.load(sys.stdin.buffer)
    except EOFError:  # the parent has ended, or needs no rank
        os._exit(0)
    log_format = f"%(asctime)s %(levelname)s rank {args.rank}: %(message)s"
    logging.basicConfig(level=logging.INFO, format=log_format)
    code = 1
    try:
        run_rank(args)
        code = 0
    finally:
        logging.shutdown()
        os._exit(code)


if __name__ == "__main__":
    main()
