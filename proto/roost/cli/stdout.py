"""A standard output that cannot be written, since its disk is full or it is closed, ends the command with one line."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator

from roost.cli.report import report


class StdoutError(Exception):
    """Standard output cannot be written. It is not an OSError, which libraries on the way handle themselves."""


class _Stdout(io.TextIOWrapper):
    """Raises StdoutError where a text stream raises OSError."""

    def write(self, text: str, /) -> int:
        with _failures():
            return super().write(text)

    def flush(self) -> None:
        with _failures():
            super().flush()


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StdoutError(f"cannot write to stdout: {error.strerror}") from error


@contextlib.contextmanager
def stdout_failures_reported() -> Iterator[None]:
    """Ends the program with status 1 and an error on stderr when the block cannot write what it prints."""
    # A closed descriptor is occupied, so that no socket gets its number: it can be opened, but not written.
    stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    assert isinstance(stdout, io.TextIOWrapper)
    sys.stdout = _Stdout(
        stdout.detach(), encoding=stdout.encoding, errors=stdout.errors, line_buffering=stdout.line_buffering
    )
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except StdoutError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left in the buffer
        with contextlib.suppress(OSError):
            report(str(error))
        sys.exit(1)
