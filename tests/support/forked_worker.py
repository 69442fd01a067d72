"""`python -m roost_worker` and the ranks of its engine, as processes of a fork server that has imported both."""

import logging
from dataclasses import dataclass
from pathlib import Path

import roost_worker.__main__ as command
import roost_worker.model.runner  # noqa: F401  ranks import it
from fork_server import Forked, fork
from roost_worker.seam.rank import RankArgs, run_rank


@dataclass(frozen=True)
class ForkedRank:
    """Implements RankHandle."""

    process: Forked

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()


@dataclass(frozen=True)
class ForkedRanks:
    """Implements Spawner."""

    address: str
    """Of the fork server."""
    log: Path

    def spawn(self, args: RankArgs) -> ForkedRank:
        return ForkedRank(fork(self.address, "forked_worker:serve_rank", args, log=self.log))


def serve(address: str, log: Path) -> int:
    """Run a worker whose ranks are forked by the server at `address`; they write the worker's `log`."""
    command.SubprocessSpawner = lambda **_: ForkedRanks(address, log)  # type: ignore[assignment,misc]
    return command.main()


def serve_rank(args: RankArgs) -> None:
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s rank {args.rank}: %(message)s")
    run_rank(args)
