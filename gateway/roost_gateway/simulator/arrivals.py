"""When sessions begin: a fixed number at once (closed loop), or at a rate or as recorded (open loop). Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from random import Random
from typing import Protocol

from roost_gateway.simulator.workload import Session


@dataclass(frozen=True, slots=True)
class Start:
    """A session, and when it begins in seconds of the simulation's clock."""

    time: float
    session: Session


class Arrivals(Protocol):
    """Says which sessions begin when; a session's later steps follow from its gaps."""

    def first(self) -> Iterable[Start]:
        """Return the starts that are known from the beginning."""
        ...

    def after_start(self, now: float) -> Start | None:
        """Return the start that follows one that has just been, if any."""
        ...

    def after_end(self, now: float) -> Start | None:
        """Return the start that follows the end of a session, if any."""
        ...


class ClosedLoop:
    """Always `population` sessions, as long as there are more: one begins when another ends."""

    def __init__(self, sessions: Iterator[Session], population: int, ramp_seconds: float = 0.0) -> None:
        """The first ones begin evenly within `ramp_seconds`."""
        self._sessions = sessions
        self._population = population
        self._ramp_seconds = ramp_seconds

    def first(self) -> Iterable[Start]:
        step = self._ramp_seconds / self._population
        for number, session in enumerate(islice(self._sessions, self._population)):
            yield Start(number * step, session)

    def after_start(self, now: float) -> Start | None:
        return None

    def after_end(self, now: float) -> Start | None:
        session = next(self._sessions, None)
        return Start(now, session) if session else None


class OpenLoop:
    """Sessions begin whether others have ended or not: `rate` a second at random, or at their recorded times."""

    def __init__(self, sessions: Iterator[Session], rate: float | None, seed: int) -> None:
        self._sessions = sessions
        self._rate = rate
        self._random = Random(f"arrivals {seed}")

    def first(self) -> Iterable[Start]:
        start = self.after_start(0.0)
        return [start] if start else []

    def after_start(self, now: float) -> Start | None:
        session = next(self._sessions, None)
        if session is None:
            return None
        time = session.start_seconds if self._rate is None else now + self._random.expovariate(self._rate)
        return Start(time, session)

    def after_end(self, now: float) -> Start | None:
        return None


def shuffled_forever(sessions: Iterable[Session], seed: int) -> Iterator[Session]:
    """Return the sessions again and again, each time in another order and under new names."""
    pool = list(sessions)
    random = Random(f"order {seed}")
    for turn in count():
        random.shuffle(pool)
        for session in pool:
            yield session.renamed(f"{session.name}/{turn}")
