"""Requests that real agent clients sent. Texts are `lorem[<length>:<hash>]`: equal text, equal mark."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "gateway" / "wire"


@dataclass(frozen=True, slots=True)
class WireRequest:
    """Headers that say something of a session, and the body."""

    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def raw(self) -> bytes:
        return json.dumps(self.body).encode()


@cache
def requests_of(client: str) -> tuple[WireRequest, ...]:
    """The requests of `tests/gateway/wire/CLIENT.jsonl`, in order."""
    lines = (FOLDER / f"{client}.jsonl").read_text().splitlines()
    return tuple(WireRequest(**json.loads(line)) for line in lines)
