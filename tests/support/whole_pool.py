"""A whole pool without Ray for two tenants with API keys: a gateway, a worker with a tiny model, Redis."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from fault_stack import FaultStack, log_of, tiny_pool, until
from forked_stack import forked_processes
from roost import Client, Sampling, Session
from roost.contract.api_keys import hash_api_key
from roost.v1 import worker_service_pb2 as wpb
from roost.v1.worker_service_pb2_grpc import WorkerServiceStub
from roost_operator.api.spec import AgentPool
from roost_operator.local.runner import LocalStack, StackOptions

CONTEXT = 8192
POOL_NAME = "default/whole"
SHORT = Sampling(temperature=0.0, max_tokens=4, ignore_eos=True)
ENDLESS = Sampling(temperature=0.0, max_tokens=7500, ignore_eos=True)
"""Seconds of output, so that it is cut in its middle: the engine draws some 2,500 tokens a second."""

ROLES: tuple[dict[str, Any], ...] = (
    {"name": "agent", "maxOutputTokensPerStep": 7600},
    {"name": "once", "maxStepsPerSession": 1},
    {"name": "frugal", "sessionTokenBudget": 400},
)
POOL = tiny_pool("whole", ROLES, replicas=1, context=CONTEXT, memory="64Mi", batch=256, dtype="float32")


@dataclass
class Whole:
    """The pool, a client of each of two tenants, and the worker's own port."""

    stack: LocalStack
    anna: Client
    bob: Client
    worker: WorkerServiceStub
    secret: str
    ledger: Callable[[], Awaitable[dict[str, str]]]
    raw: grpc.aio.Channel = field(repr=False)

    async def state(self) -> wpb.GetStateResponse:
        return await self.worker.GetState(wpb.GetStateRequest(), metadata=[("roost-pool-secret", self.secret)])

    @contextlib.asynccontextmanager
    async def cut_short(self) -> AsyncIterator[None]:
        """The output of an endless step that is taken meanwhile is not generated to its end."""
        before = (await self.state()).generated_tokens
        yield
        assert (await self.state()).generated_tokens - before < (ENDLESS.max_tokens or 0)

    async def everything_is_free(self) -> None:
        """Waits until no attempt holds blocks and the ledger holds neither reservation nor waiter."""
        held: dict[str, object] = {}

        async def free() -> bool:
            nonlocal held
            state, ledger = await self.state(), await self.ledger()
            held = {"running": state.running, "waiting": state.waiting, "blocks": state.blocks.in_use, "ledger": ledger}
            return not any(held.values())

        try:
            await until(free, "blocks and reservations to be given back")
        except AssertionError as error:
            error.add_note(f"still held: {held}")
            raise


@contextlib.asynccontextmanager
async def whole_pool(folder: Path) -> AsyncIterator[Whole]:
    """Runs the pool in `folder`."""
    options = StackOptions(
        state_dir=folder / "state", port=0, gateways=1, ray=False, cache_dir=folder / "cache", key_file=keys(folder)
    )
    async with contextlib.AsyncExitStack() as open_:
        open_.enter_context(forked_processes())
        stack = await open_.enter_async_context(LocalStack(AgentPool.model_validate(POOL), options))
        anna, bob = [
            await open_.enter_async_context(await Client.connect(stack.targets, api_key=key))
            for key in ("annas-key", "bobs-key")
        ]
        (lease,) = await stack.leases()
        to_worker = await open_.enter_async_context(grpc.aio.insecure_channel(lease.address))
        to_gateway = await open_.enter_async_context(grpc.aio.insecure_channel(stack.targets[0]))
        secret = (options.state_dir / "pool-secret").read_text()
        ledger = FaultStack(stack, folder).claims
        yield Whole(stack, anna, bob, WorkerServiceStub(to_worker), secret, ledger, to_gateway)


def keys(folder: Path) -> Path:
    """A key file for two tenants, and a key that reaches another pool only."""
    path = folder / "keys.yaml"
    entries = (("annas-key", "anna", POOL_NAME), ("bobs-key", "bob", "*"), ("carls-key", "carl", "default/other"))
    path.write_text(
        "keys:\n"
        + "".join(
            f"- {{id: {tenant}, sha256: {hash_api_key(key)}, tenant: {tenant}, pools: ['{pool}']}}\n"
            for key, tenant, pool in entries
        )
    )
    return path


async def begin(client: Client, **options: Any) -> Session:
    """A session with one committed step."""
    session = await client.open(**options)
    await session.run("Begin.", sampling=SHORT)
    return session


async def goes_on(whole: Whole, session: Session, steps: int = 1) -> None:
    """Nothing was lost: everything is free, and the next step continues the log of `steps` steps."""
    await whole.everything_is_free()
    result = await session.run("Go on.", sampling=SHORT)
    log = await log_of(session)
    assert result.committed.index == steps
    assert (len(log), log[-1].head) == (steps + 1, result.committed.head)
