"""Full blocks that no sequence refers to, in runs of what was released together."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count


@dataclass(slots=True)
class LooseRun:
    """Blocks of one sequence that were released together. The last block is evicted first."""

    number: int
    blocks: dict[int, None]
    """The keys are an ordered set, in the order of the sequence."""
    last_used: float


class LooseRuns:
    """All loose blocks. Each is in one run; a run ends when its last block is taken."""

    def __init__(self) -> None:
        self._runs: dict[int, LooseRun] = {}
        self._run_of: dict[int, LooseRun] = {}
        self._count = count(1)

    def add(self, blocks: Iterable[int], now: float) -> LooseRun:
        """Make a run of `blocks`, in the order of their sequence. They must not be loose already."""
        run = LooseRun(next(self._count), dict.fromkeys(blocks), now)
        assert self._run_of.keys().isdisjoint(run.blocks), "a block is loose already"
        self._runs[run.number] = run
        self._run_of.update(dict.fromkeys(run.blocks, run))
        return run

    def get(self, number: int) -> LooseRun:
        """Return the run with this number."""
        return self._runs[number]

    def run_of(self, block: int) -> LooseRun | None:
        """Return the run that `block` is in, or None when it is not loose."""
        return self._run_of.get(block)

    def take(self, block: int) -> LooseRun:
        """Take a loose block out of its run, and return the run."""
        run = self._run_of.pop(block)
        del run.blocks[block]
        self._end_if_empty(run)
        return run

    def take_last(self, run: LooseRun) -> int:
        """Take the last block out of `run`, and return the block."""
        block, _ = run.blocks.popitem()
        del self._run_of[block]
        self._end_if_empty(run)
        return block

    def runs(self) -> Iterable[LooseRun]:
        """All runs."""
        return self._runs.values()

    def blocks(self) -> set[int]:
        """All loose blocks."""
        return set(self._run_of)

    def check_integrity(self) -> None:
        """Raise AssertionError unless runs and blocks agree."""
        members = {block: run for run in self._runs.values() for block in run.blocks}
        assert members == self._run_of, "a loose block is not in its run"
        assert all(run.blocks for run in self._runs.values()), "a run is empty"

    def _end_if_empty(self, run: LooseRun) -> None:
        if not run.blocks:
            del self._runs[run.number]
