"""The `roost` command against the fake gateway: what it prints, and how it fails."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import roost
from roost.cli import output
from roost.cli.app import app
from roost.contract.reasons import Reason
from roost.sync import SyncClient
from roost.testing import FakeGateway, FakeRole
from threaded_fake import ThreadedFake, fake_in_thread

GONE = "default/fake/" + "0" * 26
ROLES = (FakeRole("coder"), FakeRole("critic"))


@pytest.fixture
def fake() -> Iterator[ThreadedFake]:
    with fake_in_thread(lambda: FakeGateway(api_keys={"secret": "t"}, roles=ROLES, gateways=2)) as running:
        yield running


@pytest.fixture
def session(fake: ThreadedFake) -> str:
    """A session with one step."""
    with SyncClient.connect(fake.gateway.targets, api_key="secret") as client:
        opened = client.open(role="critic", task="t1")
        opened.run("hello [bold]there")
        return opened.id


def roost_command(fake: ThreadedFake, *arguments: str, stdin: str = "", key: str = "secret") -> Result:
    environment = {"ROOST_TARGET": fake.target, "ROOST_API_KEY": key, "COLUMNS": "200"}
    return CliRunner().invoke(app, arguments, input=stdin, env=environment)


def test_list_shows_every_session(fake: ThreadedFake, session: str) -> None:
    result = roost_command(fake, "sessions", "list")
    assert result.exit_code == 0, result.output
    assert session in result.stdout
    assert "critic" in result.stdout
    assert "hot" in result.stdout
    assert session not in roost_command(fake, "sessions", "list", "--role", "coder").stdout


def test_a_row_is_a_line_however_narrow_the_terminal(fake: ThreadedFake, session: str) -> None:
    environment = {"ROOST_TARGET": fake.target, "ROOST_API_KEY": "secret", "COLUMNS": "40"}
    result = CliRunner().invoke(app, ["sessions", "list"], env=environment)
    header, row = result.stdout.splitlines()
    assert header.split() == ["SESSION", "ROLE", "TASK", "STATE", "TIER", "TOKENS", "STEPS", "HOLD", "AGE"]
    assert row.split()[:5] == [session, "critic", "t1", "active", "hot"]
    assert header.index("TIER") == row.index("hot")


def test_on_a_terminal_a_log_is_broken_into_lines_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    output.print_table(("STEP", "TEXT"), [(0, "many words " * 9)], folded="TEXT")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert max(map(len, plain.splitlines())) <= 40
    assert " ".join(plain.split()[2:]) == "0 " + " ".join(["many words"] * 9)


def test_list_as_json(fake: ThreadedFake, session: str) -> None:
    (listed,) = json.loads(roost_command(fake, "sessions", "list", "-o", "json").stdout)
    assert (listed["id"], listed["tier"], listed["steps"]) == (session, "hot", 1)
    assert len(listed["head"]["log_hash"]) == 32


def test_a_session_is_held_evicted_closed_and_deleted(fake: ThreadedFake, session: str) -> None:
    held = roost_command(fake, "sessions", "hold", session, "--tool", "grep", "--expect-seconds", "3")
    assert "grep 3s" in held.stdout
    assert json.loads(roost_command(fake, "sessions", "get", session, "-o", "json").stdout)["hold"]["tool"] == "grep"
    assert "evicted" in roost_command(fake, "sessions", "evict", session).stdout
    assert "cold" in roost_command(fake, "sessions", "get", session).stdout
    assert "closed" in roost_command(fake, "sessions", "close", session).stdout
    assert roost_command(fake, "sessions", "delete", session, stdin="n\n").exit_code == 1
    assert roost_command(fake, "sessions", "get", session).exit_code == 0
    assert roost_command(fake, "sessions", "delete", session, "--yes").exit_code == 0
    assert roost_command(fake, "sessions", "get", session).exit_code == 1


def test_a_session_is_forked_where_its_log_had_so_many_steps(fake: ThreadedFake, session: str) -> None:
    whole = json.loads(roost_command(fake, "sessions", "fork", session, "--label", "a=b=c", "-o", "json").stdout)
    assert (whole["steps"], whole["task"], whole["labels"]) == (1, "t1", {"a": "b=c"})
    assert whole["forked_from"]["session_id"] == session
    shown = roost_command(fake, "sessions", "fork", session, "--steps", "0", "--task", "t2").stdout
    assert f"{session} at 0 tokens" in shown
    for wrong in (["--steps", "2"], ["--label", "a"]):
        assert roost_command(fake, "sessions", "fork", session, *wrong).exit_code == 2


def test_the_log_shows_calls_that_a_step_brought(fake: ThreadedFake) -> None:
    call = roost.ToolCall("c1", "grep", '{"q": 1}')
    answer = roost.Message(roost.MessageRole.ASSISTANT, "", (call,))
    with SyncClient.connect(fake.gateway.targets, api_key="secret") as client:
        brought = client.open(role="critic")
        brought.run([roost.user("look"), answer, roost.tool_result(call, "7")])
    assert '→ grep({"q": 1})' in roost_command(fake, "sessions", "log", brought.id).stdout


def test_the_log_shows_who_said_what(fake: ThreadedFake, session: str) -> None:
    shown = roost_command(fake, "sessions", "log", session).stdout
    assert shown.count("hello [bold]there") == 2
    (step,) = json.loads(roost_command(fake, "sessions", "log", session, "-o", "json", "--token-ids").stdout)
    assert bytes(step["output_token_ids"]).decode() == "hello [bold]there"


@pytest.mark.parametrize(
    ("arguments", "key", "message", "hint"),
    [
        (["sessions", "get", GONE], "secret", "SESSION_NOT_FOUND", "roost sessions list"),
        (["sessions", "get", "nonsense"], "secret", "not a session's name", ""),
        (["sessions", "list"], "wrong", "INVALID_API_KEY", "ROOST_API_KEY"),
        (["sessions", "list", "--pool", "no/pool"], "secret", "POOL_NOT_ALLOWED", "--pool"),
        (["chat", "--role", "nobody"], "secret", "ROLE_NOT_FOUND", "--role"),
        (["chat", "--session", GONE], "secret", "SESSION_NOT_FOUND", ""),
    ],
)
def test_an_expected_error_is_one_line_with_a_hint(
    fake: ThreadedFake, arguments: list[str], key: str, message: str, hint: str
) -> None:
    result = roost_command(fake, *arguments, key=key)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert [line for line in lines[1:] if line.startswith("hint: ") and hint in line] == lines[1:]
    assert "Traceback" not in result.output


def test_no_gateway_is_an_expected_error() -> None:
    result = CliRunner().invoke(app, ["sessions", "list", "--target", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert "no gateway answers at 127.0.0.1:1" in result.stderr
    assert "roost up" in result.stderr


def test_chat_streams_answers_and_obeys_commands(fake: ThreadedFake) -> None:
    lines = "hello [red]you\n\n/hold grep 3\n/evict\nagain\n/info\n/nonsense\n /said\n/help\n/quit\nnever said\n"
    result = roost_command(fake, "chat", "--role", "coder", "--system", "Be terse.", stdin=lines)
    assert result.exit_code == 0, result.output
    assert result.stdout == "hello [red]you\nagain\n/said\n"
    for note in ("held", "rebuilt", "role coder: 2 steps", "no command `/nonsense`"):
        assert note in result.stderr


def test_chat_goes_on_after_a_failed_step_but_reports_it(fake: ThreadedFake, session: str) -> None:
    fake.gateway.fail_next(Reason.INTERNAL)  # the look at the session
    assert roost_command(fake, "chat", "--session", session).exit_code == 1
    with SyncClient.connect(fake.gateway.targets, api_key="secret") as client:
        client.session(session).close()
    result = roost_command(fake, "chat", "--session", session, stdin="x\n/info\n")
    assert result.exit_code == 1
    assert "SESSION_CLOSED" in result.stderr
    assert "1 steps" in result.stderr


@pytest.mark.parametrize("line", ["/hold grep soon", "/hold grep 3 4", "/hold grep nan", "/hold grep -1"])
def test_a_pause_that_is_no_number_of_seconds_is_refused(fake: ThreadedFake, line: str) -> None:
    result = roost_command(fake, "chat", line)
    assert result.exit_code == 1
    assert f"write `/hold TOOL SECONDS`, not `{line}`" in result.stderr


def test_chat_says_one_thing_and_leaves(fake: ThreadedFake) -> None:
    result = roost_command(fake, "chat", "hello", "--role", "coder", stdin="never said\n")
    assert (result.exit_code, result.stdout) == (0, "hello\n")
    fake.gateway.fail_next(Reason.ROLE_NOT_FOUND)
    assert roost_command(fake, "chat", "hello").exit_code == 1


def test_what_a_model_says_goes_into_a_pipe_to_the_letter(fake: ThreadedFake) -> None:
    text = "a:\n\tb :smile: [bold]c[/] \x1b[31md \u2713"
    assert roost_command(fake, "chat", text).stdout == f"{text}\n"


def test_what_a_model_says_cannot_steer_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    output.write("\ta\n\x1b]0;title\x07\x9b2J\r\u2713")
    assert terminal.getvalue() == "\ta\n\ufffd]0;title\ufffd\ufffd2J\ufffd\u2713"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_in_a_table_cannot_steer_a_terminal(fake: ThreadedFake) -> None:
    with SyncClient.connect(fake.gateway.targets, api_key="secret") as client:
        session = client.open()
        session.run("\x1b[2J:smile:")
    shown = roost_command(fake, "sessions", "log", session.id).stdout
    assert "\x1b" not in shown
    assert shown.count(":smile:") == 2


def test_input_that_is_no_utf8_is_an_expected_error(fake: ThreadedFake) -> None:
    environment = {**os.environ, "ROOST_TARGET": fake.target, "ROOST_API_KEY": "secret", "PYTHONUTF8": "1"}
    for mode, message in (("strict", "the input is not UTF-8 text"), ("surrogateescape", "content is not UTF-8 text")):
        result = subprocess.run(
            [sys.executable, "-c", "import roost.cli; roost.cli.main()", "chat"],
            env={**environment, "PYTHONIOENCODING": f"utf-8:{mode}"},
            input=b"\xff\n",
            capture_output=True,
            check=False,
        )
        assert result.returncode == 1
        assert result.stdout == b""
        assert f"error: {message}" in result.stderr.decode().replace("a message's ", "")


def test_chat_survives_a_broken_stream(fake: ThreadedFake) -> None:
    with SyncClient.connect(fake.gateway.targets, api_key="secret") as client:
        session = client.open().id
    reply = "a rather long line that is streamed in pieces"
    lines = f"{reply}\n"
    fake.gateway.fail_next(Reason.NO_WORKER, retry_after=0.01)
    fake.gateway.break_next_step(after_tokens=8)
    # The first mishap meets the look at the session, which is retried; the second the step.
    result = roost_command(fake, "chat", "--session", session, stdin=lines)
    assert result.exit_code == 0, result.output
    assert result.stdout.count(reply) == 1


def test_keys_hash_makes_an_entry_of_the_key_file(tmp_path: Path) -> None:
    from roost_gateway.front.credentials import Authenticator

    result = CliRunner().invoke(app, ["keys", "hash", "--tenant", "acme", "--pool", "a/b", "--id", "ci"], input="k3y\n")
    assert result.exit_code == 0
    assert hashlib.sha256(b"k3y").hexdigest() in result.stdout
    assert "k3y" not in result.output
    (tmp_path / "keys.yaml").write_text(result.stdout)
    caller = Authenticator(tmp_path / "keys.yaml").identify([("authorization", "Bearer k3y")])
    assert (caller.tenant, caller.pools, caller.key_id) == ("acme", frozenset({"a/b"}), "ci")


@pytest.mark.parametrize("wrong", [["--pool", "coders"], ["--tenant", "a:b"], ["--tenant", ""]])
def test_keys_hash_refuses_what_no_gateway_would_take(wrong: list[str]) -> None:
    result = CliRunner().invoke(app, ["keys", "hash", *wrong], input="k3y\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert wrong[0] in result.stderr


def test_keys_hash_makes_a_key_when_none_is_given() -> None:
    result = CliRunner().invoke(app, ["keys", "hash"])
    key = result.stderr.splitlines()[0].removeprefix("key: ")
    assert key.startswith("roost_")
    assert len(key) > 40
    assert hashlib.sha256(key.encode()).hexdigest() in result.stdout


def test_token_ids_are_not_left_out_silently(fake: ThreadedFake, session: str) -> None:
    result = roost_command(fake, "sessions", "log", session, "--token-ids")
    assert result.exit_code == 2
    assert "-o json" in result.stderr


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"roost {roost.__version__}\n"
    assert CliRunner().invoke(app, ["version"]).stdout == f"roost {roost.__version__}\n"
    assert CliRunner().invoke(app, ["version", "--short"]).stdout == f"{roost.__version__}\n"


def test_without_typer_the_command_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('no typer', name='typer')")
    paths = [str(tmp_path), str(Path(roost.__file__).parent.parent)]
    result = subprocess.run(
        [sys.executable, "-c", "import roost.cli; roost.cli.main()"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr == "error: the command line needs `typer`\nhint: pip install 'roost[cli]'\n"
