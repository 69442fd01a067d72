"""Settings shared by all tests, and which of them share a process when they run in several (`make test`)."""

import gc
import os
import sys
from collections import defaultdict
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# Modest by default: the suite runs on two cores. `HYPOTHESIS_PROFILE=thorough` searches longer.
settings.register_profile("default", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

os.environ.setdefault("OMP_NUM_THREADS", "2")
# Threads of torch that have nothing to do would spin, for more CPU time than the tests take, where tests share cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Without bytecode each process of xdist would rewrite and compile all test files, and each gateway, worker and rank
# that a test starts would compile its part of Roost.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

LONG_MARKS = ("faults", "ray", "model")
LONG_FIXTURES = ("api_server", "whole")
API_SERVERS = (
    ("operator_life", "operator_process"),
    (
        *("child_secrets", "conditions_on_api_server", "custom_resource", "in_place_on_api_server"),
        *("known_objects", "limited_models", "reconcile_on_api_server", "samples"),
    ),
)
"""Tests of the operator that share an API server, and so a process. Two such processes take half the time of one."""
_ON_API_SERVER = {
    f"tests/operator/test_{name}.py": f"API server {i}" for i, names in enumerate(API_SERVERS) for name in names
}


class FilesOrGroups(LoadFileScheduling):
    """A process takes a whole file, or all files on one API server, since their fixtures are dear.

    Not by marks of xdist: with pytest 9.2 the groups of xdist 3.8 are ignored (pytest-xdist issue 1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return _ON_API_SERVER.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FilesOrGroups:
    return FilesOrGroups(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the modules and tests, which stay, out of garbage collections: each would take about a second."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, those on API servers first, so that no process is left alone with one; the
    rest stays shuffled."""
    files: dict[object, list[pytest.Item]] = defaultdict(list)
    for item in items:
        files[item.path].append(item)
    long = {path for path, members in files.items() if any(map(_takes_long, members))}
    items.sort(key=lambda item: (item.location[0] not in _ON_API_SERVER, item.path not in long))
    for item in items:
        if "api_server" in _fixtures(item):
            item.add_marker(pytest.mark.binaries)
            if item.location[0] not in _ON_API_SERVER:
                raise pytest.UsageError(
                    f"{item.location[0]} uses an API server; name it in API_SERVERS of tests/conftest.py"
                )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The order of a run that failed, to repeat it."""
    seed = getattr(config.option, "randomly_seed", None)
    if seed is not None and terminalreporter.stats.keys() & {"failed", "error"}:
        terminalreporter.write_line(f"to repeat this order: --randomly-seed={seed}")


def _takes_long(item: pytest.Item) -> bool:
    marked = any(item.get_closest_marker(name) for name in LONG_MARKS)
    return marked or any(name in _fixtures(item) for name in LONG_FIXTURES)


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])
