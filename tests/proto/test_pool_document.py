"""A pool's document: what is written is read back, also by programs of other versions."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.contract.budgets import BudgetLimits, OnBudget, RoleBudgets
from roost.contract.nonce_lines import NonceLine
from roost.contract.pool_document import SCHEMA_VERSION, PoolDocument, PoolRole, PoolTenant
from roost.contract.repetition import OnRepetition, RepetitionRules

COUNT = st.integers(0, 2**40)
BOOL = st.booleans()
LITERAL = st.text(st.characters(exclude_characters="*\r\n"))
LIMITS = st.builds(BudgetLimits, COUNT, COUNT, COUNT, COUNT)
IN_WINDOWS = st.builds(BudgetLimits, COUNT, COUNT, COUNT, st.just(0), st.integers(60, 10**7))
WAYS = st.sampled_from(OnBudget)
BUDGETS = st.builds(
    RoleBudgets, LIMITS, LIMITS, IN_WINDOWS, st.sampled_from(OnBudget), COUNT, st.integers(1, 100), COUNT
)
REPETITION = st.builds(RepetitionRules, COUNT, COUNT, st.sampled_from(OnRepetition))
ROLES = st.builds(PoolRole, st.text(min_size=1), COUNT, COUNT, COUNT, COUNT, BUDGETS, REPETITION, BOOL, BOOL)
DOCUMENTS = st.builds(
    PoolDocument,
    pool=st.just("team/agents"),
    model=st.text(),
    aliases=st.lists(st.text(), max_size=3).map(tuple),
    context_tokens=COUNT,
    drops_thinking=st.booleans(),
    active_revision=st.text(),
    roles=st.lists(ROLES).map(tuple),
    idle_ttl_seconds=COUNT | st.floats(0, 1e9),
    implicit_ttl_seconds=st.integers(1, 10**6) | st.floats(0.001, 1e9),
    nonce_lines=st.lists(st.builds(NonceLine, LITERAL.filter(bool), LITERAL), max_size=3).map(tuple),
    max_session_tokens=COUNT,
    migrates=st.booleans(),
    tenant_budget=IN_WINDOWS,
    tenants=st.lists(st.builds(PoolTenant, st.text(min_size=1), st.integers(1, 1000)), max_size=3).map(tuple),
    queue_limit=COUNT,
    queue_timeout_seconds=st.integers(1, 3600) | st.floats(0.001, 3600),
    has_gate=st.booleans(),
    max_hold_seconds=st.integers(1, 3600) | st.floats(0.001, 3600),
    rebuilds_ahead=st.booleans(),
    suspend=st.booleans(),
)
OF_AN_OLDER_OPERATOR = """{"pool": "team/agents", "model": {"name": "smol", "contextTokens": 8192},
"activeRevision": "abc", "roles": [{"name": "coder", "priority": 5, "maxOutputTokensPerStep": 512,
"maxStepsPerSession": 3, "sessionTokenBudget": 9}],
"sessions": {"idleTTLSeconds": 60, "maxTokens": 500, "retention": "Keep",
"onModelChange": "Refuse"}, "admission": {"queueLimit": 5, "queueTimeoutSeconds": 30}, "suspend": true}"""
"""As roost_operator wrote it before documents had a version."""


@given(DOCUMENTS)
def test_what_is_written_is_read(document: PoolDocument) -> None:
    assert PoolDocument.decode("team/agents", document.encode()) == document


def test_a_document_without_a_version_is_read() -> None:
    assert PoolDocument.decode("team/agents", OF_AN_OLDER_OPERATOR) == PoolDocument(
        pool="team/agents",
        model="smol",
        context_tokens=8192,
        active_revision="abc",
        roles=(PoolRole("coder", 5, 512, 3, 9),),
        idle_ttl_seconds=60,
        max_session_tokens=500,
        migrates=False,
        queue_limit=5,
        queue_timeout_seconds=30,
        suspend=True,
        schema_version=0,
    )


def test_a_tenant_that_is_not_named_has_the_weight_1() -> None:
    pool = PoolDocument("a/b", tenants=(PoolTenant("acme", 3), PoolTenant("other")))
    assert [pool.weight(name) for name in ("acme", "other", "else")] == [3, 1, 1]


def test_what_is_missing_has_its_default_and_what_is_unknown_is_passed_over() -> None:
    text = json.dumps({"schemaVersion": SCHEMA_VERSION, "colour": "red", "sessions": {"colour": "red"}, "model": None})
    assert PoolDocument.decode("a/b", text) == PoolDocument("a/b")


def test_a_newer_version_is_an_error_that_says_what_to_update() -> None:
    text = json.dumps({"schemaVersion": SCHEMA_VERSION + 1})
    with pytest.raises(ValueError, match=r"pool a/b: .*schemaVersion 2 is newer than 1, .* update it to the version"):
        PoolDocument.decode("a/b", text)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"schemaVersion": "1"}, "schemaVersion must be a whole number, not '1'"),
        ({"schemaVersion": True}, "schemaVersion must be a whole number, not True"),
        ({"model": {"aliases": ["gpt", 4]}}, r"model\.aliases\[1\] must be a text, not 4"),
        ({"model": "smol"}, "model must be a map, not 'smol'"),
        ({"model": {"contextTokens": 1.5}}, r"model\.contextTokens must be a whole number, not 1\.5"),
        ({"sessions": {"idleTTLSeconds": "60"}}, r"sessions\.idleTTLSeconds must be a number, not '60'"),
        ({"sessions": {"nonceLines": [4]}}, r"sessions\.nonceLines\[0\] must be a text, not 4"),
        ({"sessions": {"nonceLines": ["*"]}}, r"sessions\.nonceLines\[0\]: '\*' is not a nonce line; write how"),
        ({"sessions": {"nonceLines": ["id: *", "id"]}}, r"sessions\.nonceLines\[1\]: 'id' is not a nonce line"),
        ({"sessions": {"nonceLines": ["a*b*"]}}, r"sessions\.nonceLines\[0\]: 'a\*b\*' is not a nonce line"),
        ({"roles": {}}, "roles must be a list, not {}"),
        ({"roles": [{"name": "coder"}, {"priority": 1}]}, r"roles\[1\]\.name is missing"),
        ({"roles": ["coder"]}, r"roles\[0\]\.name is missing"),
        ({"roles": [{"name": "coder", "priority": "high"}]}, r"roles\[0\]\.priority must be a whole number"),
        ({"tenants": [{"weight": 2}]}, r"tenants\[0\]\.name is missing"),
        ({"tenants": [{"name": "a"}, {"name": "b", "weight": 0}]}, r"tenants\[1\]\.weight must be at least 1, not 0"),
        ({"suspend": 1}, "suspend must be true or false, not 1"),
        ([], r"a map is wanted, not \[\]"),
    ],
)
def test_a_wrong_field_is_named(document: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"pool a/b: its document in the store cannot be read: {why}"):
        PoolDocument.decode("a/b", json.dumps(document))


def test_what_is_not_json_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"pool a/b: .* it is not JSON"):
        PoolDocument.decode("a/b", b"{")
