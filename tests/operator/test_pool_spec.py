"""What a pool file may say, and what is answered when it says something else."""

import re
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from roost_operator.api.loader import PoolFileError, load_pool, parse_pool
from roost_operator.api.pool_document import pool_document
from roost_operator.api.problems import nearest, valid_keys
from roost_operator.api.spec import AgentPool, OnPoolDeletion
from roost_operator.api.worker_config import worker_config
from roost_worker.config import BLOCK_TOKENS, DTYPES, KvConfig

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))


def document(**spec: Any) -> dict[str, Any]:
    """A small valid pool, with parts of its spec replaced."""
    models = [{"name": "m", "source": "dummy://llama-tiny", "contextTokens": 512}]
    roles = [{"name": "agent", "maxOutputTokensPerStep": 64}]
    return {
        "apiVersion": "roost.dev/v1alpha1",
        "kind": "AgentPool",
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"models": models, "roles": roles, **spec},
    }


def parse(value: dict[str, Any]) -> AgentPool:
    return parse_pool(yaml.safe_dump(value))


def model(**fields: Any) -> dict[str, Any]:
    return document(models=[{"name": "m", "source": "dummy://llama-tiny", "contextTokens": 512, **fields}])


def role(**fields: Any) -> dict[str, Any]:
    return document(roles=[{"name": "agent", "maxOutputTokensPerStep": 64, **fields}])


REFUSED = {
    "unknown kind": ({**document(), "kind": "AgentPol"}, "kind: ", "use 'AgentPool'"),
    "other version": ({**document(), "apiVersion": "roost.dev/v1"}, "apiVersion: ", "use 'roost.dev/v1alpha1'"),
    "no spec": ({key: value for key, value in document().items() if key != "spec"}, "spec: ", "add it"),
    "upper-case name": ({**document(), "metadata": {"name": "Pool"}}, "metadata.name: ", "lower-case letters"),
    "name like 7b": (
        {**document(), "metadata": {"name": "7b"}},
        "metadata.name: ",
        "begin with a lower-case letter",
    ),
    "long name": ({**document(), "metadata": {"name": "p" * 48}}, "metadata.name: ", "use at most 47 characters"),
    "misspelt metadata": ({**document(), "metadata": {"name": "p", "lables": {}}}, "metadata.lables: ", "mean labels?"),
    "no models": (document(models=[]), "spec.models: ", "give at least 1"),
    "two models": (
        document(models=[{"name": name, "source": "dummy://llama-tiny"} for name in "ab"]),
        "spec.models: ",
        "make a pool for each",
    ),
    "unknown source": (model(source="s3://bucket"), "spec.models[0].source: ", "use hf://org/name"),
    "unknown dtype": (model(dtype="float16"), "spec.models[0].dtype: ", "use 'bfloat16', 'float32' or 'float64'"),
    "misspelt key": (model(tensorParalel=2), "spec.models[0].tensorParalel: ", "did you mean tensorParallel?"),
    "snake case": (model(context_tokens=64), "spec.models[0].context_tokens: ", "did you mean contextTokens?"),
    "zero ranks": (model(tensorParallel=0), "spec.models[0].tensorParallel: ", "use at least 1"),
    "short context": (model(contextTokens=8), "spec.models[0].contextTokens: ", "use at least 64"),
    "text for a number": (model(contextTokens="long"), "spec.models[0].contextTokens: ", "write a whole number"),
    "fraction": (model(contextTokens=512.5), "spec.models[0].contextTokens: ", "write a whole number"),
    "odd block": (model(kvCache={"blockTokens": 33}), "spec.models[0].kvCache.blockTokens: ", "use 16, 32, 64 or 128"),
    "odd memory": (model(kvCache={"memory": "12Q"}), "spec.models[0].kvCache.memory: ", "512Mi, 4Gi or auto"),
    "no memory": (model(kvCache={"memory": 0}), "spec.models[0].kvCache.memory: ", "512Mi, 4Gi or auto"),
    "odd host memory": (
        model(kvCache={"hostMemory": "auto"}),
        "spec.models[0].kvCache.hostMemory: ",
        "512Mi, 4Gi, or 0 for none",
    ),
    "negative host memory": (
        model(kvCache={"hostMemory": -1}),
        "spec.models[0].kvCache.hostMemory: ",
        "512Mi, 4Gi, or 0 for none",
    ),
    "unknown eviction": (
        model(kvCache={"evictionPolicy": "lru"}),
        "spec.models[0].kvCache.evictionPolicy: 'lru' is not allowed",
        "use 'LRUSparingHeld', 'LRU' or 'LearnedReturns'",
    ),
    "eviction is a number": (
        model(kvCache={"evictionPolicy": 1}),
        "spec.models[0].kvCache.evictionPolicy: ",
        "write a text",
    ),
    "unknown engine key": (
        model(engine={"maxRuning": 3}),
        "spec.models[0].engine.maxRuning: ",
        "did you mean maxRunning?",
    ),
    "batch below running": (
        model(engine={"maxRunning": 300}),
        "spec.models[0].engine: ",
        "raise maxBatchTokens or lower maxRunning",
    ),
    "no workers": (document(workers={"replicas": 0}), "spec.workers.replicas: ", "use at least 1"),
    "template is a text": (document(workers={"template": "x"}), "spec.workers.template: ", "write a mapping"),
    "no roles": (document(roles=[]), "spec.roles: ", "give at least 1"),
    "roles are a mapping": (document(roles={"name": "a"}), "spec.roles: ", "write a list"),
    "nameless role": (document(roles=[{"priority": 1}]), "spec.roles[0].name: ", "add it"),
    "same role twice": (document(roles=[{"name": "a"}] * 2), "spec.roles: ", "give each role a name of its own"),
    "same tenant twice": (document(tenants=[{"name": "a"}] * 2), "spec.tenants: ", "name it once, with its weight"),
    "tenant with a colon": (document(tenants=[{"name": "a:b"}]), "spec.tenants[0].name: ", "a text without a colon"),
    "tenant without weight": (document(tenants=[{"name": "a", "weight": 0}]), "spec.tenants[0].weight: ", "at least 1"),
    "tenant of all weight": (
        document(tenants=[{"name": "a", "weight": 1001}]),
        "spec.tenants[0].weight: ",
        "at most 1000",
    ),
    "role with a model": (role(model="m"), "spec.roles[0].model: ", "remove it"),
    "negative budget": (role(sessionTokenBudget=-1), "spec.roles[0].sessionTokenBudget: ", "use at least 0"),
    "more than the context": (
        role(maxOutputTokensPerStep=513),
        "spec: roles[0].maxOutputTokensPerStep: ",
        "lower it, or use 0",
    ),
    "priority out of range": (role(priority=1001), "spec.roles[0].priority: ", "use at most 1000"),
    "unknown way of a deletion": (
        document(sessions={"onPoolDeletion": "keep"}),
        "spec.sessions.onPoolDeletion: ",
        "use 'Keep' or 'Purge'",
    ),
    "unknown retention": (
        document(sessions={"retention": "keep"}),
        "spec.sessions.retention: ",
        "use 'Keep' or 'Purge'",
    ),
    "nonce line without a beginning": (
        document(sessions={"nonceLines": ["id: *", "* id"]}),
        "spec.sessions.nonceLines[1]: '* id' is not allowed",
        "write how the line begins, then one '*'",
    ),
    "too many nonce lines": (
        document(sessions={"nonceLines": ["id: *"] * 17}),
        "spec.sessions.nonceLines: ",
        "give at most 16",
    ),
    "long nonce line": (
        document(sessions={"nonceLines": ["i" * 256 + "*"]}),
        "spec.sessions.nonceLines[0]: ",
        "256",
    ),
    "unknown way of thinking": (model(thinking="forget"), "spec.models[0].thinking: ", "use 'keep' or 'drop'"),
    "unknown policy": (
        document(sessions={"onModelChange": "Drop"}),
        "spec.sessions.onModelChange: ",
        "use 'Migrate' or 'Refuse'",
    ),
    "misspelt TTL": (
        document(sessions={"idleTtlSeconds": 5}),
        "spec.sessions.idleTtlSeconds: ",
        "did you mean idleTTLSeconds?",
    ),
    "log above context": (document(sessions={"maxTokens": 513}), "spec: sessions.maxTokens: ", "lower it, or use 0"),
    "endless queue": (
        document(admission={"queueTimeoutSeconds": 0}),
        "spec.admission.queueTimeoutSeconds: ",
        "at least 1",
    ),
    "secret without a name": (document(store={"urlSecretRef": {}}), "spec.store.urlSecretRef.name: ", "add it"),
    "suspend is a text": (document(suspend="maybe"), "spec.suspend: ", "write true or false"),
    "key like nothing": (document(zzz=1), "spec.zzz: ", "remove it (known: models, workers"),
}


@pytest.mark.parametrize(("value", "field", "fix"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_line_field_and_fix(value: dict[str, Any], field: str, fix: str) -> None:
    with pytest.raises(PoolFileError) as caught:
        parse(value)
    (fault,) = str(caught.value).splitlines()
    assert re.match(r"pool\.yaml:\d+: ", fault)
    assert f": {field}" in fault
    assert fix in fault


def test_a_misspelt_key_is_not_told_to_be_missing_too() -> None:
    wrong = document()
    wrong["spec"]["model"] = wrong["spec"].pop("models")
    wrong["spec"]["roles"][0]["Name"] = wrong["spec"]["roles"][0].pop("name")
    with pytest.raises(PoolFileError) as caught:
        parse(wrong)
    spec, role = sorted(str(caught.value).splitlines(), key=lambda fault: fault.count("]"))
    assert "spec.model: is unknown; did you mean models?" in spec
    assert "spec.roles[0].Name: is unknown; did you mean name?" in role


def test_every_fault_is_told_at_once_with_its_line() -> None:
    text = yaml.safe_dump(document(workers={"replica": 1}, suspend="maybe"), sort_keys=False)
    with pytest.raises(PoolFileError) as caught:
        parse_pool(text)
    lines = text.splitlines()
    for fault in str(caught.value).splitlines():
        line, key = int(fault.split(":")[1]), fault.split(": ")[1].split(".")[-1]
        assert lines[line - 1].strip().startswith(key)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("", "give exactly one AgentPool"),
        ("a: 1\n---\nb: 2\n", "holds 2 documents"),
        ("a: [1\n", "is not valid YAML"),
        ("? [a, b]\n: c\n", "pool.yaml:1: is not valid YAML: found unhashable key"),
        ("a: 2020-13-45\n", "is not valid YAML: month must be"),
        ("a: 1\nb: !!python/object:os.system {}\n", "pool.yaml:2: is not valid YAML: could not determine"),
        ("a: &x [*x]\n", "is nested without end"),
        ("- a\n", "start with apiVersion"),
        ("kind: AgentPool\nspec: {}\nkind: AgentPool\n", "pool.yaml:3: kind: is given twice"),
        ("spec:\n  roles:\n  - name: a\n    name: b\n", "pool.yaml:4: spec.roles[0].name: is given twice"),
    ],
)
def test_files_that_hold_no_pool_are_refused(text: str, fix: str) -> None:
    with pytest.raises(PoolFileError, match=re.escape(fix)):
        parse_pool(text)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PoolFileError, match="give a YAML file with -f"):
        load_pool(tmp_path / "absent.yaml")


def test_what_the_api_server_adds_is_passed_over() -> None:
    read_back = document()
    read_back["metadata"] |= {"uid": "1", "resourceVersion": "2", "managedFields": []}
    assert parse({**read_back, "status": {"conditions": []}}) == parse(document())


def test_defaults_fill_what_is_left_out() -> None:
    pool = parse(document(roles=[{"name": "agent"}], models=[{"name": "m", "source": "dummy://llama-tiny"}]))
    assert pool.pool == "n/p"
    assert pool.spec.model.dtype == "bfloat16"
    assert pool.spec.model.kv_cache.block_tokens == 32
    assert pool.spec.model.kv_cache.eviction_policy == "LRUSparingHeld"
    assert pool.spec.sessions.deletion is OnPoolDeletion.KEEP
    assert not pool.spec.suspend


def test_without_roles_there_is_a_default_one() -> None:
    value = document()
    del value["spec"]["roles"]
    assert [role.name for role in parse(value).spec.roles] == ["default"]


@pytest.mark.parametrize("file", SAMPLES, ids=lambda path: path.name)
def test_samples_are_valid(file: Path) -> None:
    pool = load_pool(file)
    worker_config(pool, store_url="redis://127.0.0.1", pool_secret="s")
    assert pool_document(pool).pool == pool.pool


def test_pool_document_is_what_gateways_read() -> None:
    sessions = {"idleTTLSeconds": 60, "maxTokens": 500, "nonceLines": ["id: *"]}
    admission = {"queueLimit": 5, "workingSet": "Enforced"}
    tenants = [{"name": "team a", "weight": 3}, {"name": "b"}]
    value = document(sessions=sessions, admission=admission, tenants=tenants)
    value["spec"]["models"][0] |= {"thinking": "drop", "kvCache": {"rebuildAhead": "Held", "memory": "3Mi"}}
    value["spec"]["roles"][0]["speculation"] = "PromptLookup"
    pool = parse(value)
    limits = {"maxOutputTokensPerStep": 64, "maxStepsPerSession": 0, "sessionTokenBudget": 0, "onHold": "Admit"}
    limits["speculation"] = "PromptLookup"
    tested_in_test_budget_spec = {"budgets": ANY, "repetition": ANY}
    assert pool_document(pool, "abc").to_json() == {
        "schemaVersion": 1,
        "pool": "n/p",
        "model": {
            "name": "m",
            "aliases": [],
            "contextTokens": 512,
            "thinking": "drop",
            "kvCache": {"rebuildAhead": "Held"},
        },
        "activeRevision": "abc",
        "roles": [{"name": "agent", "priority": 0, **limits, **tested_in_test_budget_spec}],
        "sessions": {**sessions, "implicitTTLSeconds": 3600, "onModelChange": "Migrate"},
        "tenantBudget": ANY,
        "tenants": [{"name": "team a", "weight": 3}, {"name": "b", "weight": 1}],
        "admission": {**admission, "queueTimeoutSeconds": 30, "maxHoldSeconds": 120},
        "suspend": False,
    }


def test_worker_config_carries_the_spec(tmp_path: Path) -> None:
    value = model(
        dtype="float32",
        tensorParallel=2,
        kvCache={"blockTokens": 16, "memory": "3Mi", "evictionPolicy": "LRU", "hostMemory": "5Mi", "dtype": "int8"},
        engine={"maxRunning": 4, "kernels": "torch"},
    )
    value["spec"]["workers"] = {"drainTimeoutSeconds": 7}
    config = worker_config(parse(value), store_url="redis://x", pool_secret="s", cache_dir=tmp_path)
    assert (config.pool, config.store_url, config.pool_secret, config.drain_seconds) == ("n/p", "redis://x", "s", 7.0)
    assert (config.model.dtype, config.model.tensor_parallel, config.model.context_tokens) == ("float32", 2, 512)
    assert config.kv == KvConfig(16, 3 * 1024 * 1024, "LRU", 5 * 1024 * 1024, "int8")
    assert (config.engine.max_running, config.engine.max_batch_tokens, config.engine.kernels) == (4, 256, "torch")
    assert config.cache_dir == tmp_path


@pytest.mark.parametrize("fields", [{"dtype": "float64"}, {"engine": {"kernels": "torch"}}])
def test_strict_determinism_needs_kernels(fields: dict[str, Any]) -> None:
    with pytest.raises(PoolFileError, match="strict needs kernels"):
        parse(model(determinism="strict", **fields))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_tokens", BLOCK_TOKENS)
def test_the_spec_takes_what_the_worker_takes(dtype: str, block_tokens: int) -> None:
    config = worker_config(
        parse(model(dtype=dtype, kvCache={"blockTokens": block_tokens})), store_url="redis://x", pool_secret="s"
    )
    assert (config.model.dtype, config.kv.block_tokens) == (dtype, block_tokens)


def models_below(kind: type[BaseModel]) -> list[type[BaseModel]]:
    models = [kind]
    for name in kind.model_fields:
        for inner in [kind.model_fields[name].annotation, *getattr(kind.model_fields[name].annotation, "__args__", ())]:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                models.extend(models_below(inner))
    return models


@pytest.mark.parametrize("kind", models_below(AgentPool), ids=lambda kind: kind.__name__)
def test_the_spec_can_become_a_schema(kind: type[BaseModel]) -> None:
    """Every field has a description, none is a float, durations are whole seconds."""
    for name, info in kind.model_fields.items():
        assert info.description, name
        assert info.annotation is not float, name
        assert "duration" not in name, name
    assert kind.model_config["frozen"]
    assert kind.model_config["extra"] == "forbid"


@given(st.sampled_from(valid_keys(AgentPool, ("spec", "roles", 0))), st.data())
def test_one_wrong_letter_still_finds_the_key(key: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(key) - 1))
    letter = data.draw(st.sampled_from("qxz_"))
    assert nearest(key[:place] + letter + key[place + 1 :], valid_keys(AgentPool, ("spec", "roles", 0))) == key
