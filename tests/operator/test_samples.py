"""The samples show every field of the spec, and what the operator makes of each is taken by a real API server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from api_server import ApiServer
from built_binaries import kuberay_definitions
from roost_operator.api.crd import custom_resource_definition
from roost_operator.api.loader import load_pool
from roost_operator.plan import children
from roost_operator.plan.installation import Installation
from roost_operator.plan.ray_service import Size, ray_service

FOLDER = Path(__file__).parents[2] / "manifests" / "samples"
SAMPLES = sorted(FOLDER.glob("*.yaml"))
INSTALLATION = Installation(pool_key="k" * 32)
SPEC = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def described(schema: dict[str, Any], path: str = "spec") -> Iterator[str]:
    """Paths of all fields of the schema; `[]` stands for the items of a list."""
    for name, member in schema.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from described(member, f"{path}.{name}")
    if "items" in schema:
        yield from described(schema["items"], f"{path}[]")


def written(value: Any, path: str = "spec") -> Iterator[str]:
    """Paths of all fields of a document."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield f"{path}.{name}"
            yield from written(member, f"{path}.{name}")
    for item in value if isinstance(value, list) else ():
        yield from written(item, f"{path}[]")


def spec_of(sample: Path) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load(sample.read_text())["spec"]
    return spec


def test_every_field_of_the_spec_is_in_a_sample() -> None:
    shown = {path for sample in SAMPLES for path in written(spec_of(sample))}
    assert set(described(SPEC)) - shown == {"spec.sessions.retention"}, "which is deprecated"


def test_every_way_that_a_policy_can_be_set_is_in_a_sample_by_name() -> None:
    """Enumerations are read here, since a sample shows one value and its comment the others."""
    texts = "".join(sample.read_text() for sample in SAMPLES)
    policies = [SPEC["properties"]["workers"]["properties"]["upgrade"]]
    policies += [SPEC["properties"]["sessions"]["properties"][name] for name in ("onPoolDeletion", "onModelChange")]
    policies += [SPEC["properties"]["admission"]["properties"]["workingSet"]]
    policies += [SPEC["properties"]["roles"]["items"]["properties"][name] for name in ("onHold", "speculation")]
    policies.append(SPEC["properties"]["roles"]["items"]["properties"]["budgets"]["properties"]["onBudget"])
    policies.append(SPEC["properties"]["roles"]["items"]["properties"]["repetition"]["properties"]["onRepetition"])
    model = SPEC["properties"]["models"]["items"]["properties"]
    policies += [model["thinking"]]
    policies += [model["kvCache"]["properties"][name] for name in ("evictionPolicy", "rebuildAhead")]
    assert [value for policy in policies for value in policy["enum"] if value not in texts] == []


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: str(path.stem))
def test_a_sample_says_what_it_shows_and_when_to_use_it(sample: Path) -> None:
    comment = [line for line in sample.read_text().splitlines() if line.startswith("#")]
    assert sample.read_text().startswith("# ")
    assert re.search(r"\b(when|for)\b", " ".join(comment), flags=re.I)
    assert f"pool-{load_pool(sample).metadata.name}" == sample.stem


@pytest.fixture(scope="module")
def with_kuberay(api_server: ApiServer) -> ApiServer:
    definitions = kuberay_definitions()
    if definitions is None:
        pytest.skip("no KubeRay definitions; run `make binaries`")
    api_server.kubectl("apply", "--server-side", "-f", str(definitions / "ray.io_rayservices.yaml"))
    api_server.await_established("crd/rayservices.ray.io")
    return api_server


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: str(path.stem))
def test_what_a_sample_becomes_is_valid_to_the_api_server(
    with_kuberay: ApiServer, namespace: str, sample: Path
) -> None:
    """Here a misspelt key of `workers.template` is seen, which the pool's own schema lets pass."""
    pool = load_pool(sample)
    manifests = [
        ray_service(pool, INSTALLATION, Size(1, 1), suspend=pool.spec.suspend, ray_token="token"),
        children.service_account(pool),
        children.worker_secret(pool, INSTALLATION, "token"),
        children.disruption_budget(pool),
        *children.network_policies(pool, INSTALLATION),
    ]
    documents = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    strictly = ("--server-side", "--dry-run=server", "--validate=strict")
    with_kuberay.kubectl("apply", *strictly, "-n", namespace, "-f", "-", stdin=documents)
