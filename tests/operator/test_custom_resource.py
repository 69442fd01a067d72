"""The custom resource definition: current, structural, and taken by a real API server, which refuses what is wrong."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from api_server import ApiServer, KubectlError
from roost_operator.api import crd
from roost_operator.api.crd_rules import RULES
from roost_operator.api.fields import LONGEST_NAME
from roost_operator.api.loader import load_pool, parse_pool
from roost_operator.api.quantity import AUTO, memory_bytes

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
INVALID = sorted((Path(__file__).parent / "invalid").glob("*.yaml"))
VERSION = crd.custom_resource_definition()["spec"]["versions"][0]


def objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below `schema`, with its path."""
    yield path, schema
    for name, member in schema.get("properties", {}).items():
        yield from objects(member, f"{path}.{name}".removeprefix("."))
    if "items" in schema:
        yield from objects(schema["items"], f"{path}[]")


ALL = dict(objects(VERSION["schema"]["openAPIV3Schema"]))


AMOUNTS = st.from_regex(ALL["spec.models[].kvCache.memory"]["pattern"], fullmatch=True)


@given(AMOUNTS.filter(lambda text: len(text) <= 32 and not text.endswith("\n")))
def test_an_amount_of_memory_that_the_schema_takes_can_be_read(text: str) -> None:
    """The pattern, and the rule beside it as it stands: a digit that is not 0."""
    assert "string(self).matches('[1-9]')" in RULES["spec.models[].kvCache.memory"][0]["rule"]
    if re.search("[1-9]", text):
        assert (memory_bytes(text) or 0) >= 1
    elif text != AUTO:
        with pytest.raises(ValueError, match="must be positive"):
            memory_bytes(text)


def test_the_file_is_current() -> None:
    assert not crd.stale(ROOT)


def test_an_edited_file_is_stale(tmp_path: Path) -> None:
    assert crd.stale(tmp_path)
    crd.write(tmp_path)
    assert not crd.stale(tmp_path)
    (tmp_path / crd.FILE).write_text(crd.text() + "# edited\n")
    assert crd.stale(tmp_path)


def test_every_field_is_described() -> None:
    assert [path for path, schema in ALL.items() if "description" not in schema and path != "metadata"] == []


def test_conventions_of_kubernetes() -> None:
    """No phase, no floats, conditions as a map, optional objects with defaults."""
    assert not [path for path in ALL if path.endswith("phase")]
    assert {schema.get("type") for schema in ALL.values()} <= {"object", "array", "string", "integer", "boolean", None}
    assert ALL["status.conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert ALL["spec.workers"]["default"] == {}
    assert set(RULES) <= set(ALL)


def test_columns() -> None:
    columns = VERSION["additionalPrinterColumns"]
    usual = ["Ready", "Workers", "Limited", "Sessions", "Age"]
    assert [column["name"] for column in columns if not column.get("priority")] == usual
    assert [column["name"] for column in columns if column.get("priority")] == ["Reason"], "with -o wide"


def test_server_fills_in_the_same_defaults_as_the_spec(api_server: ApiServer, namespace: str) -> None:
    for sample in SAMPLES:
        shown = json.loads(api_server.kubectl("create", "-n", namespace, "-o", "json", "-f", str(sample)))
        ours = load_pool(sample).spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        assert shown["spec"] == ours


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: str(path.stem))
def test_samples_are_taken(api_server: ApiServer, sample: Path) -> None:
    api_server.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(sample))


@pytest.mark.parametrize("case", INVALID, ids=lambda path: str(path.stem))
def test_invalid_pools_are_refused_with_the_fix(api_server: ApiServer, case: Path) -> None:
    wanted = [line.removeprefix("# says: ") for line in case.read_text().splitlines() if line.startswith("# says: ")]
    with pytest.raises(KubectlError) as refusal:
        api_server.kubectl("create", "--dry-run=server", "--validate=strict", "-f", str(case))
    assert wanted
    assert [text for text in wanted if text not in str(refusal.value)] == [], str(refusal.value)


def test_forty_cases() -> None:
    assert len(INVALID) >= 40


def test_longest_name(api_server: ApiServer, namespace: str) -> None:
    document = yaml.safe_load(SAMPLES[0].read_text())
    document["metadata"]["name"] = "p" * LONGEST_NAME
    api_server.kubectl("create", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(document))


def test_store_of_a_pool_cannot_change(api_server: ApiServer, namespace: str) -> None:
    document = yaml.safe_load(SAMPLES[0].read_text())
    document["spec"]["store"] = {"urlSecretRef": {"name": "one"}}
    parse_pool(yaml.safe_dump(document))
    api_server.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(document))
    document["spec"]["store"]["urlSecretRef"]["name"] = "two"
    with pytest.raises(KubectlError, match="urlSecretRef cannot change, since the pool's sessions would be lost"):
        api_server.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(document))


def test_a_fraction_of_a_unit_is_taken(api_server: ApiServer, namespace: str) -> None:
    document = yaml.safe_load(SAMPLES[0].read_text())
    document["spec"]["models"][0]["kvCache"] = {"memory": "0.7Gi"}
    api_server.kubectl("create", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(document))


def test_scale(api_server: ApiServer, namespace: str) -> None:
    api_server.kubectl("create", "-n", namespace, "-f", str(ROOT / "manifests/samples/pool-dummy.yaml"))
    api_server.kubectl("scale", "-n", namespace, "ap/dummy", "--replicas=3")
    assert api_server.get("ap", "dummy", namespace)["spec"]["workers"]["replicas"] == 3
