"""`roost chat`: talk to a model in one session."""

import contextlib
import math
import sys
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from roost import Committed, Delta, Migrated, Queued, Restarted, Sampling, errors
from roost.cli.options import DEFAULT_TARGET, ApiKey, Pool, Target, connect
from roost.cli.output import expected_errors, report_error, write
from roost.cli.report import report
from roost.sync import SyncClient, SyncSession

with contextlib.suppress(ImportError):  # Windows does not have it
    import readline  # noqa: F401  gives `input` line editing and history

HELP = """/hold [TOOL] [SECONDS]  announce a pause
/evict                  drop the KV cache; the next step rebuilds it
/info                   show the session
/help                   show this help
/quit                   leave; the session stays
Ctrl-C cancels a running step."""


def chat(
    message: Annotated[
        str,
        typer.Argument(metavar="MESSAGE", help="Say this, then leave; the session stays.", show_default=False),
    ] = "",
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    pool: Pool = None,
    role: Annotated[str, typer.Option(help="Role; the pool's first by default.", show_default=False)] = "",
    system: Annotated[str, typer.Option(help="System text.", show_default=False)] = "",
    session: Annotated[
        str, typer.Option(help="Continue this session instead of opening a new one.", show_default=False)
    ] = "",
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of an answer.", min=1, show_default=False)] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the most likely token.", min=0, show_default=False)
    ] = None,
) -> None:
    """Talk to a model in one session. Each line is a step. Lines that begin with / are commands; /help lists them.

    When stdout is not a terminal, only what the model says goes there; everything else goes to stderr.
    """
    with expected_errors(), connect(target, api_key, pool) as client:
        handle = _session(client, role, system, session)
        talk = Chat(handle, Sampling(max_tokens=max_tokens, temperature=temperature))
        if message:
            talk.note(f"session {handle.id}")
            talk.say(message)
        else:
            talk.note(f"session {handle.id}; /help lists commands")
            talk.loop()
    if talk.failed and (message or not sys.stdin.isatty()):
        raise typer.Exit(1)


def _session(client: SyncClient, role: str, system: str, session: str) -> SyncSession:
    if not session:
        return client.open(role=role, system=system)
    handle = client.session(session)
    handle.info()
    return handle


class Chat:
    """A conversation on the terminal."""

    def __init__(self, session: SyncSession, sampling: Sampling) -> None:
        self.failed = False
        self._console = Console(highlight=False, emoji=False, stderr=not sys.stdout.isatty(), soft_wrap=True)
        self._session = session
        self._sampling = sampling

    def note(self, text: str) -> None:
        """Prints text that does not come from the model."""
        self._console.print(f"[dim]{escape(text)}[/]")

    def loop(self) -> None:
        """Reads lines until /quit or the end of input."""
        while True:
            try:
                line = self._read()
            except EOFError:
                if sys.stdin.isatty():
                    self.note("")  # otherwise the shell's prompt would follow on the same line
                return
            except KeyboardInterrupt:
                self.note("\n/quit or Ctrl-D leaves")
                continue
            if line == "/quit":
                return
            if line:
                self.say(line)

    def _read(self) -> str:
        try:
            return input("> " if sys.stdin.isatty() else "").rstrip()
        except UnicodeDecodeError as error:
            raise ValueError(f"the input is not UTF-8 text: {error.reason} at byte {error.start}") from None

    def say(self, line: str) -> None:
        """Takes a step, or runs a command. Reports an error, and sets `failed`."""
        try:
            self._command(line) if line.startswith("/") else self._step(line.lstrip())
        except KeyboardInterrupt:
            self.note("\nstep cancelled")
        except (errors.RoostError, ValueError) as error:
            self.failed = True
            report_error(error)

    def _step(self, line: str) -> None:
        begin = time.monotonic()
        with self._session.step(line, sampling=self._sampling) as events:
            for event in events:
                if isinstance(event, Delta):
                    write(event.text)
                elif isinstance(event, Restarted):
                    write("\n")
                    self.note("the answer starts again")
                elif isinstance(event, Queued):
                    about = f", about {event.estimate_seconds:.0f} s" if event.estimate_seconds else ""
                    why = f": {event.explanation}" if event.explanation else ""
                    self.note(f"waiting, behind {event.position} other steps{about}{why}")
                elif isinstance(event, Migrated):
                    self.note(_migration(event))
                elif isinstance(event, Committed):
                    self._summary(event, time.monotonic() - begin)

    def _summary(self, event: Committed, seconds: float) -> None:
        calls = "".join(f"\n→ {call.name}({call.arguments_json})" for call in event.output.tool_calls)
        write(f"{calls}\n")
        usage = f"{event.output_tokens} tokens in {seconds:.1f} s, {event.usage.cached_tokens} of the context cached"
        rebuilt = f", {event.usage.reconstructed_tokens} rebuilt" if event.usage.reconstructed_tokens else ""
        self.note(f"{usage}{rebuilt}")

    def _command(self, line: str) -> None:
        name, *rest = line.split()
        if name == "/help":
            self.note(HELP)
        elif name == "/hold":
            self._hold(*rest)
            self.note("held")
        elif name == "/evict":
            self.note(f"evicted {self._session.evict()} tokens")
        elif name == "/info":
            self._info()
        else:
            report(f"there is no command `{name}`", "/help lists commands; to say the line, put a space before it")

    def _hold(self, tool: str = "", seconds: str = "0", *more: str) -> None:
        try:
            expected = float(seconds)
        except ValueError:
            expected = math.nan
        if more or not 0 <= expected < math.inf:
            raise ValueError(f"write `/hold TOOL SECONDS`, not `/hold {' '.join((tool, seconds, *more))}`")
        self._session.hold(tool=tool, expect_seconds=expected)

    def _info(self) -> None:
        info = self._session.info()
        where = f"{info.tier} on {info.worker}" if info.worker else f"{info.tier}"
        self.note(f"{info.id}\n{info.model}, role {info.role}: {info.steps} steps, {info.head.length} tokens, {where}")


def _migration(event: Migrated) -> str:
    if event.from_revision == event.to_revision:
        return "the thinking of earlier turns has left the session's log"
    return f"the pool's model has changed; the session continues with {event.to_revision}"
