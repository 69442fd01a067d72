"""`roost why` against the fake gateway: the last steps, or one, each with its line."""

import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from roost import StepResult
from roost.cli.app import app
from roost.sync import SyncClient
from roost.testing import FakeGateway
from threaded_fake import ThreadedFake, fake_in_thread


@pytest.fixture
def fake() -> Iterator[ThreadedFake]:
    with fake_in_thread(FakeGateway) as running:
        yield running


@pytest.fixture
def steps(fake: ThreadedFake) -> list[StepResult]:
    """Three steps of a session, whose cache was evicted before the last."""
    with SyncClient.connect(fake.gateway.targets) as client:
        session = client.open()
        first, second = session.run("hello"), session.run("again")
        session.evict()
        return [first, second, session.run("once more")]


def roost_why(fake: ThreadedFake, *arguments: str) -> Result:
    with SyncClient.connect(fake.gateway.targets) as client:
        (session,) = client.sessions()
    return CliRunner().invoke(app, ["why", session.id, *arguments], env={"ROOST_TARGET": fake.target})


def line(step: StepResult) -> str:
    assert step.why is not None
    return step.why.line


def test_the_last_steps_have_their_lines(fake: ThreadedFake, steps: list[StepResult]) -> None:
    _, second, third = steps
    before_second, before_third = (step.committed.context_tokens - step.usage.prompt_tokens for step in (second, third))
    assert [line(step) for step in steps] == [
        "the session's first step",
        f"none of {before_second} tokens rebuilt",
        f"{before_third} of {before_third} tokens rebuilt: evicted on request",
    ]
    header, *rows = roost_why(fake, "--last", "2").stdout.splitlines()
    assert header.split() == ["INDEX", "STEP", "COMMITTED", "WHY"]
    assert [row.split()[:2] for row in rows] == [["1", second.step_id], ["2", third.step_id]]
    assert rows[0].endswith(line(second))
    assert rows[1].endswith(line(third))
    assert len(roost_why(fake).stdout.splitlines()) == 1 + len(steps)


def test_one_step_has_its_facts_as_json(fake: ThreadedFake, steps: list[StepResult]) -> None:
    (shown,) = json.loads(roost_why(fake, "--step", steps[2].step_id, "-o", "json").stdout)
    assert (shown["step_id"], shown["index"], shown["line"]) == (steps[2].step_id, 2, line(steps[2]))
    assert (shown["why"]["cause"], shown["why"]["place"], shown["why"]["wait"]) == (
        "evicted_on_request",
        "no_home",
        None,
    )


def test_an_unknown_step_is_refused_with_a_way_to_find_one(fake: ThreadedFake, steps: list[StepResult]) -> None:
    result = roost_why(fake, "--step", "nobody")
    assert result.exit_code == 2
    assert "without it lists the last ones" in " ".join(result.output.replace("│", " ").split())
