"""Reasons of conditions: the code, its truth table and the documents say the same."""

import re
from pathlib import Path

import pytest

from pool_world import by_type
from roost_operator.plan import conditions as conditions_module
from roost_operator.plan.conditions import Facts, conditions, readiness
from roost_operator.plan.reasons import ConditionReason, table

ROOT = Path(__file__).parents[2]
ROWS: dict[ConditionReason, Facts] = {
    ConditionReason.DELETING: Facts(1, 0, deleting=True),
    ConditionReason.INVALID_SPEC: Facts(1, 0, unreadable="x"),
    ConditionReason.INVALID_TEMPLATE: Facts(1, 0, template="x"),
    ConditionReason.CHILD_REFUSED: Facts(1, 0, refused="x"),
    ConditionReason.KUBERAY_MISSING: Facts(1, 0, kuberay=False),
    ConditionReason.SECRET_MISSING: Facts(1, 0, missing_secrets=("s",)),
    ConditionReason.STORE_UNAVAILABLE: Facts(1, 1, store="x"),
    ConditionReason.SUSPENDING: Facts(0, 0, suspend=True),
    ConditionReason.SUSPENDED: Facts(0, 0, suspend=True, stopped=True),
    ConditionReason.IMAGE_UNAVAILABLE: Facts(1, 0, image="x"),
    ConditionReason.UNSCHEDULABLE: Facts(1, 0, unschedulable="x"),
    ConditionReason.MODEL_UNAVAILABLE: Facts(1, 0, model="x"),
    ConditionReason.WORKER_FAILS: Facts(1, 0, crashing="x"),
    ConditionReason.RAY_FAILS: Facts(1, 0, ray="x"),
    ConditionReason.KUBERAY_SILENT: Facts(1, 0, silent="x"),
    ConditionReason.UPGRADING: Facts(1, 1, upgrading=True),
    ConditionReason.SCALING: Facts(2, 1, scaling=True),
    ConditionReason.WORKERS_STARTING: Facts(2, 1),
    ConditionReason.CHANGE_HELD: Facts(1, 1, change_waits=True),
    ConditionReason.ALL_WORKERS_READY: Facts(1, 1),
}
BESIDE = {
    ConditionReason.WORKERS_READY,
    ConditionReason.NO_WORKER,
    ConditionReason.WEAK_DURABILITY,
    ConditionReason.PROMPTS_DIFFER,
    ConditionReason.AS_EXPECTED,
}
"""Reasons of Available, Degraded and ModelLimited alone."""


@pytest.mark.parametrize("reason", ROWS)
def test_a_row_for_each_reason(reason: ConditionReason) -> None:
    """As the truth table says it in its words."""
    result = readiness(ROWS[reason])
    ready, progressing, degraded = documented()[reason]
    complete = ROWS[reason].ready >= ROWS[reason].desired
    assert result.reason is reason
    assert (result.progressing, result.degraded) == (progressing == "True", degraded == "True")
    assert result.ready == (complete if ready == "as workers" else ready == "True")


def documented() -> dict[ConditionReason, tuple[str, str, str]]:
    """The truth table of the module's own words: Ready, Progressing, Degraded by reason."""
    rows = re.findall(r"^\| [^|]+ \| ([\w ]+) \| (\w+) \| (\w+) \| (\w+) \|$", conditions_module.__doc__ or "", re.M)
    return {ConditionReason(row[3]): row[:3] for row in rows if row[3] != "reason"}


def test_every_reason_is_in_the_truth_table_in_its_order() -> None:
    assert (
        [*documented()] == [*ROWS] == [reason for reason in ConditionReason if reason not in BESIDE and reason in ROWS]
    )
    assert {*ConditionReason} == {*ROWS} | BESIDE


def test_what_comes_first_in_the_table_decides() -> None:
    everything = Facts(
        2, 0, deleting=True, template="x", refused="x", kuberay=False, missing_secrets=("s",), store="x", image="x"
    )
    assert readiness(everything).reason is ConditionReason.DELETING


def test_the_documentation_has_the_table_as_it_is() -> None:
    assert table() in (ROOT / "docs" / "troubleshooting.md").read_text()


@pytest.mark.parametrize("reason", [reason for reason, facts in ROWS.items() if readiness(facts).degraded])
def test_every_fault_names_a_fix(reason: ConditionReason) -> None:
    assert reason.fix
    assert readiness(ROWS[reason]).message == reason.message(
        readiness(ROWS[reason]).message.removesuffix(f"; {reason.fix}")
    )
    assert readiness(ROWS[reason]).message.endswith(reason.fix)


def test_old_workers_of_a_failing_upgrade_keep_the_pool_ready() -> None:
    """The new ones cannot start, and that is said; the old ones take all steps."""
    shown = by_type(conditions(Facts(2, 2, newest=0, image="x", upgrading=True), [], 1, 0.0))
    assert (shown["Ready"]["status"], shown["Available"]["status"]) == ("True", "True")
    assert (shown["Degraded"]["status"], shown["Degraded"]["reason"]) == ("True", "ImageUnavailable")


def test_enough_workers_hide_the_trouble_of_one_pod() -> None:
    assert readiness(Facts(2, 2, image="x", crashing="x")).reason is ConditionReason.ALL_WORKERS_READY
