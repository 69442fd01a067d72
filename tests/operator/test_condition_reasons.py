"""Reasons of conditions: the code, its truth table and the documents say the same."""

import re
from pathlib import Path

import pytest

from roost_operator.plan import conditions as conditions_module
from roost_operator.plan.conditions import Facts, conditions, verdict
from roost_operator.plan.reasons import Reason, table, told

ROOT = Path(__file__).parents[2]
HEADER = "| reason | meaning | what to do |"
ROWS: dict[Reason, Facts] = {
    Reason.DELETING: Facts(1, 0, deleting=True),
    Reason.INVALID_SPEC: Facts(1, 0, unreadable="x"),
    Reason.INVALID_TEMPLATE: Facts(1, 0, template="x"),
    Reason.CHILD_REFUSED: Facts(1, 0, refused="x"),
    Reason.KUBERAY_MISSING: Facts(1, 0, kuberay=False),
    Reason.SECRET_MISSING: Facts(1, 0, missing_secrets=("s",)),
    Reason.STORE_UNAVAILABLE: Facts(1, 1, store="x"),
    Reason.SUSPENDING: Facts(0, 0, suspend=True),
    Reason.SUSPENDED: Facts(0, 0, suspend=True, stopped=True),
    Reason.IMAGE_UNAVAILABLE: Facts(1, 0, image="x"),
    Reason.UNSCHEDULABLE: Facts(1, 0, unschedulable="x"),
    Reason.MODEL_UNAVAILABLE: Facts(1, 0, model="x"),
    Reason.WORKER_FAILS: Facts(1, 0, crashing="x"),
    Reason.RAY_FAILS: Facts(1, 0, ray="x"),
    Reason.KUBERAY_SILENT: Facts(1, 0, silent="x"),
    Reason.UPGRADING: Facts(1, 1, upgrading=True),
    Reason.SCALING: Facts(2, 1, scaling=True),
    Reason.WORKERS_STARTING: Facts(2, 1),
    Reason.CHANGE_HELD: Facts(1, 1, held=True),
    Reason.ALL_WORKERS_READY: Facts(1, 1),
}
BESIDE = {Reason.WORKERS_READY, Reason.NO_WORKER, Reason.WEAK_DURABILITY, Reason.AS_EXPECTED}
"""Reasons of Available and Degraded alone."""


@pytest.mark.parametrize("reason", ROWS)
def test_a_row_for_each_reason(reason: Reason) -> None:
    """As the truth table says it in its words."""
    found = verdict(ROWS[reason])
    ready, progressing, degraded = documented()[reason]
    complete = ROWS[reason].ready >= ROWS[reason].desired
    assert found.reason is reason
    assert (found.progressing, found.degraded) == (progressing == "True", degraded == "True")
    assert found.ready == (complete if ready == "as workers" else ready == "True")


def documented() -> dict[Reason, tuple[str, str, str]]:
    """The truth table of the module's own words: Ready, Progressing, Degraded by reason."""
    rows = re.findall(r"^\| [^|]+ \| ([\w ]+) \| (\w+) \| (\w+) \| (\w+) \|$", conditions_module.__doc__ or "", re.M)
    return {Reason(row[3]): row[:3] for row in rows if row[3] != "reason"}


def test_every_reason_is_in_the_truth_table_in_its_order() -> None:
    assert [*documented()] == [*ROWS] == [reason for reason in Reason if reason not in BESIDE and reason in ROWS]
    assert {*Reason} == {*ROWS} | BESIDE


def test_what_comes_first_in_the_table_decides() -> None:
    everything = Facts(
        2, 0, deleting=True, template="x", refused="x", kuberay=False, missing_secrets=("s",), store="x", image="x"
    )
    assert verdict(everything).reason is Reason.DELETING


def test_documents_have_the_table_as_it_is() -> None:
    """ARCHITECTURE.md has it; another document has all of it or nothing."""
    for name in ("ARCHITECTURE.md", "README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text()
        assert (table() in text) == (HEADER in text or name == "ARCHITECTURE.md"), name


@pytest.mark.parametrize("reason", [reason for reason, facts in ROWS.items() if verdict(facts).degraded])
def test_every_fault_names_a_fix(reason: Reason) -> None:
    assert reason.fix
    assert verdict(ROWS[reason]).message == told(reason, verdict(ROWS[reason]).message.removesuffix(f"; {reason.fix}"))
    assert verdict(ROWS[reason]).message.endswith(reason.fix)


def test_old_workers_of_a_failing_upgrade_keep_the_pool_ready() -> None:
    """The new ones cannot start, and that is said; the old ones take all steps."""
    found = {one["type"]: one for one in conditions(Facts(2, 2, fresh=0, image="x", upgrading=True), [], 1, 0.0)}
    assert (found["Ready"]["status"], found["Available"]["status"]) == ("True", "True")
    assert (found["Degraded"]["status"], found["Degraded"]["reason"]) == ("True", "ImageUnavailable")


def test_enough_workers_hide_the_trouble_of_one_pod() -> None:
    assert verdict(Facts(2, 2, image="x", crashing="x")).reason is Reason.ALL_WORKERS_READY
