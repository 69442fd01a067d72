"""The parts of an output, read while it grows. Pure."""

from roost.contract.parts import PartLog
from roost_worker.render.formats import CallNamer, CallParser


class PartStream:
    """Reads an output's text from its start, and writes its parts to `log`, the calls with their ids.

    Parts depend on the text alone, not on how it comes, so that the parts of a replayed or resumed output go on where
    those of the earlier attempt stopped.
    """

    def __init__(self, parser: CallParser, namer: CallNamer, log: PartLog) -> None:
        self._parser, self._namer, self._log = parser, namer, log
        self._taken = 0
        self.text_bytes = 0
        """UTF-8 bytes of text that were read."""

    def feed(self, text: str) -> None:
        """Read the next part of the text."""
        self.text_bytes += len(text.encode())
        self._parser.feed(text)
        self._take()

    @property
    def needs_log(self) -> bool:
        """Whether the parts wait for a call's id, which depends on the text of the session's log."""
        return any(map(self._namer.needs_log, self._parser.parts[self._taken : self._taken + 1]))

    def learn_log(self) -> None:
        """Let the id depend on the log no longer. It may take a while, and may run in a thread."""
        self._namer.learn_log()

    def catch_up(self) -> None:
        """Write the parts that waited for the log."""
        self._take()

    def _take(self) -> None:
        parts, first = self._parser.parts, self._taken
        while self._taken < len(parts) and not self._namer.needs_log(parts[self._taken]):
            self._taken += 1
        self._log.extend(map(self._namer.named, parts[first : self._taken]))
