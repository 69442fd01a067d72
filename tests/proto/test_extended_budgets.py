"""`roost sessions extend`: a person lets a paused session go on."""

import pytest
from typer.testing import CliRunner, Result

from roost.cli.app import app
from roost.contract.budgets import BudgetLimits, RoleBudgets
from roost.errors import BudgetPausedError
from roost.sync import SyncClient
from roost.testing import FakeGateway, FakeRole
from threaded_fake import ThreadedFake, fake_in_thread

FRUGAL = RoleBudgets(BudgetLimits(steps=1, wall_seconds=10**6), task=BudgetLimits(tokens=10), asks=True, grace_steps=0)


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
