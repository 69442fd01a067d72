"""What the chart's Jobs say and do, against a cluster that is played."""

from typing import Any

import pytest

from roost_operator.install.__main__ import refuse_pools


class Pools:
    """The pools of a cluster, as `CustomObjectsApi` tells of them."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def list_cluster_custom_object(self, group: str, version: str, plural: str) -> Any:
        assert (group, plural) == ("roost.dev", "agentpools")
        return {"items": [{"metadata": {"namespace": "agents", "name": name}} for name in self._names]}


def test_a_refused_uninstall_names_the_pools_and_the_way_back(capsys: pytest.CaptureFixture[str]) -> None:
    pools: Any = Pools("b", "a")
    assert refuse_pools(pools, "helm rollback roost 3 --namespace here") == 1
    said = capsys.readouterr().err
    assert "pools still exist: agents/a, agents/b" in said
    assert "to keep it: helm rollback roost 3 --namespace here" in said


def test_without_pools_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    pools: Any = Pools()
    assert (refuse_pools(pools, "keep"), capsys.readouterr().err) == (0, "")
