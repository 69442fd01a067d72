"""The load of a simulation: which sessions come, and when."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from roost_gateway.simulator.arrivals import Arrivals, ClosedLoop, OpenLoop, shuffled_forever
from roost_gateway.simulator.formats import load as formats
from roost_gateway.simulator.generator import fitted_parameters, generate
from roost_gateway.simulator.workload import Session, with_capped_gaps

GENERATED = "generated"


@dataclass(frozen=True, slots=True)
class Load:
    """Sessions of the generator or of a file, in a closed loop (`sessions`) or an open one (`rate`, `recorded`).

    Raise ValueError when the choices exclude each other or the file is not of its format, OSError when it cannot be
    read.
    """

    workload: str = GENERATED
    """Name of a file's format, or `GENERATED`."""
    file: Path | None = None
    sessions: int = 32
    """How many there are at any time."""
    rate: float | None = None
    """How many begin a second."""
    recorded: bool = False
    """Whether they begin when the file says. Each runs once then; else a file's sessions repeat."""
    ramp_seconds: float = 60.0
    """In which the first sessions of a closed loop begin."""
    longest_gap_seconds: float | None = None
    seed: int = 0
    _of_file: tuple[Session, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.rate is not None and self.recorded:
            raise ValueError("--rate and --recorded exclude each other")
        for option, value in (("--rate", self.rate), ("--ramp", self.ramp_seconds)):
            if value is not None and not isfinite(value):
                raise ValueError(f"{option} must be a finite number, not {value}")
        object.__setattr__(self, "_of_file", self._read())

    def arrivals(self) -> Arrivals:
        """Return the arrivals, from the beginning; the same ones each time."""
        sessions = self._sessions()
        if self.longest_gap_seconds is not None:
            longest = self.longest_gap_seconds
            sessions = (with_capped_gaps(session, longest) for session in sessions)
        if self.rate is not None or self.recorded:
            return OpenLoop(sessions, self.rate, self.seed)
        return ClosedLoop(sessions, self.sessions, self.ramp_seconds)

    def _read(self) -> tuple[Session, ...]:
        if self.workload == GENERATED:
            if self.file is not None or self.recorded:
                raise ValueError(
                    "name the file's format with --workload; the generator has no file and no recorded times"
                )
            return ()
        if self.file is None:
            raise ValueError(f"give the file in the format {self.workload} with --file")
        sessions = formats.load(self.workload, self.file)
        if not sessions:
            raise ValueError(f"{self.file} has no sessions")
        return tuple(sessions)

    def _sessions(self) -> Iterator[Session]:
        if not self._of_file:
            return generate(fitted_parameters(), self.seed)
        if self.recorded:
            return iter(sorted(self._of_file, key=lambda session: session.start_seconds))
        return shuffled_forever(self._of_file, self.seed)
