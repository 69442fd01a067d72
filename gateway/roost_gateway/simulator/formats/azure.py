"""Azure's LLM inference traces of 2023 and 2024: CSV with `TIMESTAMP`, `ContextTokens` and `GeneratedTokens`.

The traces name no sessions, so that each request is one of a single turn.
"""

import csv
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from roost_gateway.simulator.workload import Session, Turn

COLUMNS = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}


def load(path: Path) -> Iterator[Session]:
    """Return a session for each row. Requests without a token of context or output are left out."""
    begin: datetime | None = None
    with path.open(newline="") as lines:
        rows = csv.DictReader(lines)
        if missing := COLUMNS - set(rows.fieldnames or ()):
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        for number, row in enumerate(rows):
            time = _moment(row["TIMESTAMP"])
            begin = begin or time
            prompt, output = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            if prompt and output:
                seconds = (time - begin).total_seconds()
                yield Session(f"request-{number}", (Turn(0, prompt, output),), start_seconds=seconds)


def _moment(text: str) -> datetime:
    """Read a time with up to seven digits of a second, which is more than `datetime` takes."""
    whole, _, rest = text.partition(".")
    digits, _, zone = rest.partition("+")
    return datetime.fromisoformat(f"{whole}.{digits[:6]:0<6}" + (f"+{zone}" if zone else ""))
