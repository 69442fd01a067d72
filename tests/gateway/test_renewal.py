"""The renewal of attempts beside their ends, and beside those of other pools."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from gateway_driver import LIMIT_SECONDS, POOL, reason, step_request, world
from redis_servers import RedisServer
from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.store.records import RenewItem
from roost.store.redis_store import RedisStore
from roost_gateway.step import renewal
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.relay import Relay
from step_attempts import attempt_of, descriptor_of


async def test_an_attempt_that_its_gateway_ends_is_not_taken_for_a_fenced_one(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewal of its lease comes when it has ended in the store, and before its client hears of that."""
    abort = RedisStore.abort
    async with world(redis_server) as w:
        renewing = w.gateway.life.steps._renewal
        batch: list[StepAttempt] = []

        def fails(*_: object) -> None:
            batch.extend(renewing._live)
            raise ZeroDivisionError

        async def renewed_late(*arguments: Any) -> int | None:
            counter = await abort(*arguments)
            await renewing._renew(POOL, batch)
            return counter

        monkeypatch.setattr(Relay, "generate", fails)
        monkeypatch.setattr(RedisStore, "abort", renewed_late)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.step(step_request(await w.caller.open()))
        assert (reason(error), len(batch)) == (Reason.INTERNAL, 1)


class HangsForOnePool:
    """A store that is a cluster: the server that has the first pool asked for does not answer."""

    def __init__(self) -> None:
        self.renewed: list[str] = []
        self.twice = asyncio.Event()

    async def renew(self, pool: str, items: Sequence[RenewItem], lease_ms: int) -> list[bool]:
        self.renewed.append(pool)
        if pool == self.renewed[0]:
            await asyncio.Event().wait()
        elif self.renewed.count(pool) == 2:
            self.twice.set()
        return [True for _ in items]


async def test_a_pool_whose_server_does_not_answer_costs_no_other_pool_its_leases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(renewal, "LEASE_PERIOD_SECONDS", 0.001)
    store: Any = HangsForOnePool()
    renewing = renewal.Renewal(store)
    with ExitStack() as attempts:
        for pool in ("a/one", "a/two"):
            attempts.enter_context(renewing.renewing(attempt_of(PoolDocument(pool), descriptor_of(f"{pool}/0"))))
        async with asyncio.timeout(LIMIT_SECONDS):
            await store.twice.wait()
    await renewing.aclose()
    assert store.renewed.count(store.renewed[0]) == 1, "what hangs is not asked again beside it"
