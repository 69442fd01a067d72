"""Lines of system text that differ from request to request and say nothing to the model. Pure."""

import re
from dataclasses import dataclass
from typing import Self

PATTERN = r"^[^*\r\n]+[*][^*\r\n]*$"
"""Of a nonce line as a pool's spec has it."""
HINT = "write how the line begins, then one '*' for the rest, and perhaps how the line ends: 'x-request-id: *'"
"""What to write instead of a text that does not match."""
MAX_LINES = 16
MAX_CHARS = 256
"""Of one line in the spec."""


@dataclass(frozen=True, slots=True)
class NonceLine:
    """Lines that begin and end with fixed texts. These are no regular expression, so that no pattern can take a gateway
    longer than its linear search through a client's text."""

    beginning: str
    end: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The lines that `BEGINNING*END` stands for. Raises ValueError for anything else."""
        if not re.fullmatch(PATTERN, text):
            raise ValueError(f"{text!r:.80} is not a nonce line; {HINT}")
        beginning, _, end = text.partition("*")
        return cls(beginning, end)

    def __str__(self) -> str:
        return f"{self.beginning}*{self.end}"

    def matches(self, line: str) -> bool:
        """Whether a line, without the characters that end it, is one of these."""
        is_long_enough = len(line) >= len(self.beginning) + len(self.end)
        return is_long_enough and line.startswith(self.beginning) and line.endswith(self.end)
