"""What can be said of the chart without Helm: values and their schema, what is generated, and the plain manifest."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/roost"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
VALUES = sorted([*CHART.glob("ci/*.yaml"), *CHART.glob("values-*.yaml")])


def walk(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, part in schema.get("properties", {}).items():
        yield f"{path}.{name}", part
        yield from walk(part, f"{path}.{name}")


def leaves(values: Any, path: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{path}.{name}"
        if isinstance(value, dict):
            yield from leaves(value, f"{path}.{name}")


def merged(base: Any, over: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {**base, **{name: merged(base.get(name), value) for name, value in over.items()}}


def plain_objects() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "manifests/roost.yaml").read_text()))


def pod_specs() -> list[Any]:
    kinds = ("Deployment", "StatefulSet", "Job")
    return [
        pytest.param(item["spec"]["template"]["spec"], id=f"{item['kind']}-{item['metadata']['name']}")
        for item in plain_objects()
        if item["kind"] in kinds
    ]


def test_the_schema_is_sound_and_describes_every_value() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert [path for path, part in walk(SCHEMA) if not part.get("description", "").endswith(".")] == []


def test_objects_of_the_schema_are_closed() -> None:
    closed = [part.get("additionalProperties") for _, part in [("", SCHEMA), *walk(SCHEMA)] if "properties" in part]
    assert set(closed) == {False}


def test_every_default_is_in_the_schema_and_every_key_of_the_schema_has_a_default() -> None:
    known = {path for path, part in walk(SCHEMA)} - {".global"}
    assert known - set(leaves(DEFAULTS)) == set()
    jsonschema.validate(DEFAULTS, SCHEMA)


@pytest.mark.parametrize("file", VALUES, ids=lambda path: path.name)
def test_values_files_are_valid(file: Path) -> None:
    jsonschema.validate(merged(DEFAULTS, yaml.safe_load(file.read_text())), SCHEMA)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"gatway": {}}, "'gatway' was unexpected"),
        ({"gateway": {"replica": 3}}, "'replica' was unexpected"),
        ({"gateway": {"replicas": 0}}, "0 is less than the minimum of 1"),
        ({"image": {"pullPolicy": "Sometimes"}}, "'Sometimes' is not one of"),
        ({"redis": {"maxMemory": "1Gi"}}, "'1Gi' does not match"),
        ({"apiKeys": {"keys": [{"id": "a", "sha256": "plain", "tenant": "t", "pools": ["*"]}]}}, "'plain' does not"),
    ],
)
def test_wrong_values_are_refused(over: dict[str, Any], message: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=re.escape(message)):
        jsonschema.validate(merged(DEFAULTS, over), SCHEMA)


def test_the_charts_copies_of_the_crd_and_of_the_operators_rules_are_current() -> None:
    command = [sys.executable, str(ROOT / "charts/generate.py"), "--check", "--no-helm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_chart_and_package_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), flags=re.M)
    assert version is not None
    assert chart["version"] == chart["appVersion"] == version.group(1)


@pytest.mark.parametrize("spec", pod_specs())
def test_pods_run_without_any_privilege(spec: dict[str, Any]) -> None:
    pod = spec["securityContext"]
    assert (pod["runAsNonRoot"], pod["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"requests", "limits"} <= set(container["resources"])


def test_the_plain_manifest_needs_nothing_of_helm_and_brings_its_namespace() -> None:
    items = plain_objects()
    assert [items[0]["kind"], items[1]["kind"]] == ["Namespace", "CustomResourceDefinition"]
    assert "helm" not in "".join(yaml.safe_dump(item) for item in items if item["kind"] != "CustomResourceDefinition")
    assert not [item for item in items if item["kind"] == "Secret"], "secrets are drawn in the cluster"
