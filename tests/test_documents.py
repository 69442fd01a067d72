"""What the documents say of the repository is so: links, paths, targets of make, commands, reasons of conditions."""

import re
from pathlib import Path

import pytest

from roost.store.keys import WORKER_RULES
from roost_operator.plan.reasons import ConditionReason

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
)
FENCE = re.compile(r"^```.*?^```", flags=re.M | re.S)
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]+)?\)")
PATHS = ("charts/", "docs/", "gateway/", "images/", "manifests/", "operator/", "proto/", "tests/", "worker/")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """Names of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    wrong = []
    for target, anchor in LINK.findall(FENCE.sub("", text_of(document))):
        if target.startswith(("http://", "https://")):
            continue
        path = ROOT / document if not target else (ROOT / document).parent / target
        known = anchors(path.read_text(encoding="utf-8")) if anchor and path.is_file() else set()
        if not path.exists() or (anchor and anchor[1:] not in known):
            wrong.append(f"{target}{anchor}")
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_exist(document: str) -> None:
    """Paths in code: those that begin with a folder of the repository, without patterns and placeholders."""
    words = {word for span in re.findall(r"`([^`\n]+)`", text_of(document)) for word in span.split()}
    words |= {word for line in text_of(document).splitlines() if line.startswith("    ") for word in line.split()}
    named = {word.rstrip(":,;") for word in words if word.startswith(PATHS) and not re.search(r"[*{}<>$A-Z…]", word)}
    assert sorted(path for path in named if not (ROOT / path.split("::")[0]).exists()) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_targets_of_make_exist(document: str) -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", text_of("Makefile"), flags=re.M))
    code = re.findall(r"`([^`\n]+)`|^    (.+)$", text_of(document), flags=re.M)
    asked = {target for spans in code for span in spans for target in re.findall(r"\bmake ([a-z0-9]+)", span)}
    assert asked - targets == set()


def test_every_reason_of_a_condition_is_in_the_table_of_troubles() -> None:
    section = text_of("docs/troubleshooting.md").partition("## Reasons")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", section, flags=re.M)
    reasons = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(reasons) == sorted(reason.value for reason in ConditionReason)


def test_the_rules_of_a_workers_user_are_those_of_the_chart() -> None:
    assert f"\n      {WORKER_RULES}\n" in text_of("docs/operations.md")


def test_kubernetes_takes_five_commands() -> None:
    section = text_of("README.md").partition("## On Kubernetes")[2].partition("\n## ")[0]
    assert len(section.splitlines()) <= 40, "one screen; what is more goes to docs/"
    commands = [line for line in section.splitlines() if line.startswith("    ")]
    assert 1 <= len(commands) <= 5


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "charts/roost/templates/NOTES.txt"])
def test_the_version_of_kuberay_is_the_one_that_is_tested(document: str) -> None:
    tested = re.search(r"kuberay/ray-operator v([\d.]+)", text_of("tests/cluster/tools/kuberay/go.mod"))
    assert tested is not None
    named = re.findall(r"kuberay-helm --version ([\d.]+)", text_of(document))
    assert named
    assert set(named) == {tested.group(1)}
