"""What two stores answer, compared; and a runner that runs every script twice."""

from dataclasses import fields, is_dataclass
from typing import Any

from hypothesis import HealthCheck, settings

from roost.store.script_runners import ScriptRunner

_TIMES = {"created_ms", "updated_ms", "expires_ms", "commit_ms", "begin_ms", "kv_since_ms", "since_ms", "wall_ms"}
_TIMES_LEFT = {"lease_ms_left", "ms_left"}
_NEVER_COMPARED = {"first_end_ms"}


def comparable(value: Any) -> Any:
    """What does not depend on a clock."""
    if is_dataclass(value):
        compared = [field.name for field in fields(value) if field.name not in _TIMES | _NEVER_COMPARED]
        parts = {name: getattr(value, name) for name in compared}
        return {name: part > 0 if name in _TIMES_LEFT else comparable(part) for name, part in parts.items()} | {
            "": type(value)
        }
    return [comparable(part) for part in value] if isinstance(value, list | tuple) else value


class Twice(ScriptRunner):
    """Runs every script twice, as a link does after a lost reply."""

    def __init__(self, runner: ScriptRunner) -> None:
        self._runner = runner

    async def evalsha(self, *arguments: Any) -> Any:
        await self._runner.evalsha(*arguments)
        return await self._runner.evalsha(*arguments)

    async def eval(self, *arguments: Any) -> Any:
        await self._runner.eval(*arguments)
        return await self._runner.eval(*arguments)

    async def aclose(self) -> None:
        await self._runner.aclose()


def owner_of(key: bytes) -> bytes:
    """The session that a key belongs to."""
    return key.partition(b":s:")[2].partition(b":")[0]


def profile(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
