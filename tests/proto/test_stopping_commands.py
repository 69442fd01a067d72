"""What a person does about sessions that have come far: `roost sessions extend` and `roost sessions fold`."""

import pytest
from typer.testing import CliRunner, Result

from roost.cli.app import app
from roost.contract.budgets import BudgetLimits, OnBudget, RoleBudgets
from roost.errors import BudgetPausedError
from roost.sync import SyncClient
from roost.testing import FakeGateway, FakeRole
from threaded_fake import ThreadedFake, fake_in_thread

FRUGAL = RoleBudgets(
    BudgetLimits(steps=1, wall_seconds=10**6), task=BudgetLimits(tokens=10), on_budget=OnBudget.ASK, grace_steps=0
)


def test_a_session_is_folded_with_a_summary_or_by_its_model() -> None:
    with fake_in_thread(lambda: FakeGateway(lambda turn: "It went well.")) as fake:
        with SyncClient.connect(fake.gateway.targets) as client:
            session = client.open()
            for number in range(4):
                session.run(f"question {number}")
        assert "2 in generation 2" in command(fake, "fold", session.id, "--keep-turns", "1", "--summary", "All well.")
        assert "1 in generation 3" in command(fake, "fold", session.id, "--keep-turns", "0")
        assert "It went well." in command(fake, "log", session.id)


def command(fake: ThreadedFake, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["sessions", *arguments], env={"ROOST_TARGET": fake.target, "COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def extend(fake: ThreadedFake, *arguments: str) -> Result:
    return CliRunner().invoke(
        app, ["sessions", "extend", *arguments], env={"ROOST_TARGET": fake.target, "COLUMNS": "200"}
    )


def test_a_paused_session_is_extended() -> None:
    roles = [FakeRole("frugal", budgets=FRUGAL)]
    with fake_in_thread(lambda: FakeGateway(roles=roles)) as fake, SyncClient.connect(fake.gateway.targets) as client:
        paused = client.open(task="t")
        paused.run("hello")
        with pytest.raises(BudgetPausedError, match="roost sessions extend"):
            paused.run("more")
        shown = extend(fake, paused.id, "--steps", "2", "--wall-seconds", "0.5")
        assert "session steps 1/3" in shown.stdout
        assert extend(fake, paused.id, "--task", "--tokens", "90").exit_code == 0
        paused.run("more")
        nothing = extend(fake, paused.id)
        assert (nothing.exit_code, "what to add" in nothing.output) == (1, True)
