"""The formats of workload files by name."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from roost_gateway.simulator.formats import agent_sessions, aiperf, azure, mooncake, weka
from roost_gateway.simulator.workload import Session

FORMATS: Mapping[str, Callable[[Path], Iterator[Session]]] = {
    "agent-sessions": agent_sessions.load,
    "weka": weka.load,
    "mooncake": mooncake.load,
    "azure": azure.load,
    "aiperf": aiperf.load,
}


def load(name: str, path: Path) -> list[Session]:
    """Return the sessions of a file.

    Raise ValueError when there is no such format or the file is not of it, OSError when it cannot be read.
    """
    if name not in FORMATS:
        raise ValueError(f"no format {name}; there are {', '.join(FORMATS)}")
    try:
        return list(FORMATS[name](path))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not of the format {name}: {type(error).__name__}: {error}") from error
