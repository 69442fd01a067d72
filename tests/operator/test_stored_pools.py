"""Pools as the API server stores them: what the schema lets in can be read, and what cannot can still be deleted."""

import base64
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pool_world import INSTALLATION, observation
from roost_operator.api import crd
from roost_operator.api.spec import OnPoolDeletion
from roost_operator.api.stored import read_pool
from roost_operator.kubernetes.kinds import Kind
from roost_operator.kubernetes.pool_secrets import pool_secrets
from roost_operator.plan.plan import plan

MODEL = {"name": "m", "source": "dummy://llama-tiny", "contextTokens": 512}
TEMPLATE = crd.custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"][
    "properties"
]["workers"]["properties"]["template"]


def stored(spec: Any, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "n", "uid": "u", **metadata}, "spec": spec}


@pytest.mark.parametrize("field", ["onPoolDeletion", "retention"])
@pytest.mark.parametrize(
    "spec",
    [
        {"models": [{**MODEL, "kvCache": {"memory": "many"}}]},
        {"models": [{**MODEL, "laterField": 1}]},
        {"models": []},
        {},
        None,
        "odd",
    ],
)
def test_what_cannot_be_read_says_why_and_keeps_what_a_deletion_needs(spec: Any, field: str) -> None:
    if isinstance(spec, dict):
        spec = {
            **spec,
            "workers": {"replicas": 3, "drainTimeoutSeconds": 77, "odd": 1},
            "sessions": {field: "Purge", "idleTTLSeconds": "odd"},
            "store": {"urlSecretRef": {"name": "mine"}},
        }
    stored_pool = read_pool(stored(spec, name="Odd.name"))
    assert stored_pool.unreadable
    assert stored_pool.pool.pool == "n/Odd.name"
    if isinstance(spec, dict):
        said = stored_pool.pool.spec
        assert (said.workers.replicas, said.workers.drain_timeout_seconds) == (3, 77)
        assert said.sessions.deletion is OnPoolDeletion.PURGE
        assert said.store.url_secret_ref is not None


def test_a_needed_field_that_cannot_be_read_is_as_if_it_were_not_there() -> None:
    stored_pool = read_pool(stored({"models": [MODEL], "workers": {"replicas": -1, "drainTimeoutSeconds": 5}}))
    assert stored_pool.unreadable.startswith("spec.workers.replicas")
    assert (stored_pool.pool.spec.workers.replicas, stored_pool.pool.spec.workers.drain_timeout_seconds) == (1, 5)


LEAVES = st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "a", "1", "200m"])
NAMES = st.sampled_from(["name", "key", "secretName", "cpu", "memory", "path", "a"])
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2))


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of the fields, each as it should be or anything else."""
    return st.fixed_dictionaries(
        {}, optional={name: st.one_of(field, field, ANYTHING) for name, field in fields.items()}
    )


REFERENCE = some(name=st.just("mine"), key=st.just("k"), secretName=st.just("mine"))
VARIABLES = st.lists(some(name=st.just("A"), valueFrom=some(secretKeyRef=REFERENCE), value=st.just("x")), max_size=2)
QUANTITIES = st.dictionaries(st.sampled_from(["cpu", "memory"]), st.sampled_from(["1", "1Gi", 2, ""]), max_size=2)
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "env": VARIABLES,
    "envFrom": st.lists(some(secretRef=REFERENCE), max_size=1),
    "ports": st.lists(some(containerPort=st.just(8471)), max_size=1),
    "volumeMounts": st.lists(some(mountPath=st.just("/tmp")), max_size=1),
    "readinessProbe": some(tcpSocket=st.just({"port": 1})),
    "lifecycle": some(preStop=st.just({"sleep": {"seconds": 1}})),
    "securityContext": ANYTHING,
    "image": ANYTHING,
}
CONTAINERS = st.builds(
    lambda name, resources, rest: {**rest, "name": name, **resources},
    st.sampled_from(["worker", "head", "other"]),
    st.fixed_dictionaries({}, optional={"resources": st.none() | some(limits=QUANTITIES, requests=QUANTITIES)}),
    some(**PARTS),
)
PODS = some(
    containers=st.lists(CONTAINERS, max_size=2, unique_by=lambda container: str(container["name"])),
    initContainers=st.lists(some(**PARTS), max_size=1),
    volumes=st.lists(some(name=st.just("cache"), secret=REFERENCE), max_size=2),
    tolerations=st.lists(some(key=st.just("a")), max_size=1),
    terminationGracePeriodSeconds=st.integers(0, 99),
)
TEMPLATES = st.fixed_dictionaries({}, optional={"spec": PODS})


class NoSecrets:
    """An API server that has one Secret."""

    async def get(self, kind: Kind, namespace: str, name: Any) -> Any:
        assert isinstance(name, str)
        return {"data": {"k": base64.b64encode(b"x").decode()}} if name == "mine" else None


ODD_SECRET = {"initContainers": [{"envFrom": [{"secretRef": {"name": "mine", "key": []}}]}]}


@given(template=TEMPLATES)
@example(template={"spec": ODD_SECRET})
async def test_what_the_schema_takes_is_read_and_planned(template: dict[str, Any]) -> None:
    """Whatever stands in the parts of a template that the schema does not look into, it ends in a plan, which at least
    says what is wrong. The API server's words of nullable and int-or-string are put into JSON schema's."""
    if not jsonschema.Draft202012Validator(_plain(TEMPLATE)).is_valid(template):
        return
    stored_pool = read_pool(stored({"models": [MODEL], "workers": {"template": template}}))
    assert not stored_pool.unreadable
    await pool_secrets(NoSecrets(), stored_pool.pool, INSTALLATION)  # type: ignore[arg-type]
    plan(stored_pool.pool, INSTALLATION, observation(has_finalizer=True))


def _plain(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: _plain(value) for name, value in schema.items()}
    if plain.pop("nullable", False):
        plain["type"] = [plain["type"], "null"]
    return plain
