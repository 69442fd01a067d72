"""Fields under their former names: what they mean, and who is warned of them."""

from pathlib import Path

import pytest

from pool_world import INSTALLATION, World, pool
from roost_operator.api.deprecations import deprecations
from roost_operator.api.pool_document import pool_document
from roost_operator.api.spec import AgentPool, SessionsSpec
from roost_operator.local import runner
from roost_operator.plan.plan import Plan, plan
from roost_worker.convert.errors import ConvertError


def with_sessions(**sessions: str) -> AgentPool:
    spec = pool().spec.model_copy(update={"sessions": SessionsSpec.model_validate(sessions)})
    return pool().model_copy(update={"spec": spec})


@pytest.mark.parametrize(
    ("sessions", "deletion", "says"),
    [
        ({}, "Keep", ()),
        ({"onPoolDeletion": "Keep"}, "Keep", ()),
        ({"onPoolDeletion": "Purge"}, "Purge", ()),
        ({"retention": "Keep"}, "Keep", ("write onPoolDeletion: Keep instead, and remove retention",)),
        ({"retention": "Purge"}, "Purge", ("write onPoolDeletion: Purge instead, and remove retention",)),
        ({"retention": "Purge", "onPoolDeletion": "Keep"}, "Keep", ("no effect beside onPoolDeletion: Keep;",)),
        ({"retention": "Keep", "onPoolDeletion": "Purge"}, "Purge", ("no effect beside onPoolDeletion: Purge;",)),
    ],
)
def test_retention_counts_where_on_pool_deletion_is_not_set(
    sessions: dict[str, str], deletion: str, says: tuple[str, ...]
) -> None:
    given = with_sessions(**sessions)
    assert given.spec.sessions.deletion == deletion
    published = pool_document(given).to_json()["sessions"]
    assert not published.keys() & {"onPoolDeletion", "retention"}, "which no gateway reads"
    for text, fix in zip(deprecations(given), says, strict=True):
        assert text.startswith("spec.sessions.retention is deprecated")
        assert fix in text


def test_the_value_that_pools_were_given_by_default_is_explained() -> None:
    assert "stored this value by itself" in deprecations(with_sessions(retention="Keep"))[0]
    assert "stored this value by itself" not in deprecations(with_sessions(retention="Purge"))[0]


def test_a_deprecated_field_is_warned_of_once_until_it_is_removed() -> None:
    def warnings(planned: Plan) -> list[str]:
        return [event.kind for event in planned.events if event.reason == "DeprecatedField"]

    world = World()
    world.settle(pool())
    assert "deprecations" not in world.observed.pool.status
    outcomes = []
    old, new = ("retention", "Purge"), ("onPoolDeletion", "Purge")
    for field, value in (old, old, new, ("retention", "Keep")):
        planned = plan(with_sessions(**{field: value}), INSTALLATION, world.observed)
        outcomes.append((warnings(planned), len(planned.status["deprecations"])))
        world.do(planned)
    assert outcomes == [(["Warning"], 1), ([], 1), ([], 0), (["Warning"], 1)]


async def test_roost_up_warns_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_model(*_: object) -> None:
        raise ConvertError("no model is needed here")

    monkeypatch.setattr(runner, "is_at_hand", lambda *_: False)
    monkeypatch.setattr(runner, "prepare_model", no_model)
    said: list[str] = []
    given, options = with_sessions(retention="Purge"), runner.StackOptions(tmp_path, port=0)
    with pytest.raises(ConvertError):
        async with runner.LocalStack(given, options, lambda event: said.append(event.text)):
            pass
    assert said == list(deprecations(given))
