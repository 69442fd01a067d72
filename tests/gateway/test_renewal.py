"""The renewal of attempts beside their ends."""

from typing import Any

import grpc
import pytest

from gateway_driver import POOL, reason, step_request, world
from redis_servers import RedisServer
from roost.contract.reasons import Reason
from roost.store.redis_store import RedisStore
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.relay import Relay


async def test_an_attempt_that_its_gateway_ends_is_not_taken_for_a_fenced_one(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewal of its lease comes when it has ended in the store, and before its client hears of that."""
    abort = RedisStore.abort
    async with world(redis_server) as w:
        renewal = w.gateway.life.steps._renewal
        batch: list[StepAttempt] = []

        def fails(*_: object) -> None:
            batch.extend(renewal._live)
            raise ZeroDivisionError

        async def renewed_late(*arguments: Any) -> int | None:
            counter = await abort(*arguments)
            await renewal._renew(POOL, batch)
            return counter

        monkeypatch.setattr(Relay, "generate", fails)
        monkeypatch.setattr(RedisStore, "abort", renewed_late)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.step(step_request(await w.caller.open()))
        assert (reason(error), len(batch)) == (Reason.INTERNAL, 1)
