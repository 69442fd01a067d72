"""A gateway for the tests of applications: the real protocol on a loopback port, sessions in memory, no model.

    async with FakeGateway(reply=lambda turn: "It is 42.") as fake:
        client = await fake.connect()
        session = await client.open()
        assert (await session.run("What is it?")).text == "It is 42."

Code that uses `roost.sync` takes it as a plain context manager:

    with FakeGateway() as fake, SyncClient.connect(fake.targets) as client:
        ...

It answers with the rules and errors of the real gateway; a test of this project runs the same scenarios on both.
A token is a byte of UTF-8, so that counts can be foretold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import grpc

from roost._client import Client
from roost._fake_output import REVISION, Turn, echo
from roost._fake_service import FakeService
from roost._fake_step import Mishap, Reply, StepRunner
from roost._transport import MAX_MESSAGE_BYTES
from roost.contract.budgets import RoleBudgets
from roost.contract.pool_document import PoolDocument, PoolRole
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.repetition import RepetitionRules
from roost.store.memory import MemoryStore
from roost.sync import BACKGROUND
from roost.v1 import session_service_pb2 as pb
from roost.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server

__all__ = ["FakeGateway", "FakeRole", "Reason", "Reply", "Turn", "refusal"]


def refusal(reason: Reason, message: str = "refused by the test", *, retry_after: float | None = None) -> Refused:
    """An error for a reply function to raise; its client sees the matching class of `roost.errors`."""
    return Refused(reason, message, retry_seconds=retry_after)


@dataclass(frozen=True, slots=True)
class FakeRole:
    """A role of the fake pool. 0 means no limit."""

    name: str = "default"
    max_steps: int = 0
    budget_tokens: int = 0
    max_output_tokens: int = 4096
    budgets: RoleBudgets = RoleBudgets()  # noqa: RUF009  # frozen
    repetition: RepetitionRules = RepetitionRules()  # noqa: RUF009  # frozen


class FakeGateway:
    """One or more gateways over the same sessions. Use it as a context manager, `async with` or `with`, once.

    `reply` gets a `Turn` and returns, or is a coroutine that returns, text or an assistant's `Message`; without it
    the last message is echoed. `api_keys` maps keys to tenants; None lets everybody in. With `gateways` above 1 a
    client has somewhere to go when a stream breaks. `delta_tokens` is the size of the streamed pieces; a step
    without deltas has one piece.
    """

    def __init__(
        self,
        reply: Reply = echo,
        *,
        pool: str = "default/fake",
        roles: Sequence[FakeRole] = (FakeRole(),),
        api_keys: Mapping[str, str] | None = None,
        gateways: int = 1,
        context_tokens: int = 32_768,
        delta_tokens: int = 8,
    ) -> None:
        if gateways < 1 or delta_tokens < 1 or not roles:
            raise ValueError("FakeGateway needs at least one gateway, one token per delta and one role")
        document = PoolDocument(
            pool,
            model="fake",
            context_tokens=context_tokens,
            active_revision=REVISION,
            roles=tuple(
                PoolRole(
                    role.name,
                    0,
                    role.max_output_tokens,
                    role.max_steps,
                    role.budget_tokens,
                    role.budgets,
                    role.repetition,
                )
                for role in roles
            ),
        )
        self._store = MemoryStore()
        self._runner = StepRunner(self._store, document, reply, delta_tokens)
        self._service = FakeService(self._runner, api_keys=api_keys)
        self._count = gateways
        self._servers: list[grpc.aio.Server] = []
        self._clients: list[Client] = []
        self.pool = pool
        self.targets: list[str] = []
        """Addresses, once it is entered."""

    async def __aenter__(self) -> Self:
        for _ in range(self._count):
            server = grpc.aio.server(options=_SERVER_OPTIONS)
            add_SessionServiceServicer_to_server(self._service, server)
            self.targets.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            await server.start()
            self._servers.append(server)
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Closes the clients that `connect` gave, then the gateways."""
        for client in self._clients:
            await client.close()
        for server in self._servers:
            await server.stop(None)

    def __enter__(self) -> Self:
        """Runs in the thread of the blocking clients."""
        BACKGROUND.enter()
        try:
            return BACKGROUND.run(self.__aenter__())
        except BaseException:
            BACKGROUND.leave()
            raise

    def __exit__(self, *exception: object) -> None:
        try:
            BACKGROUND.run(self.__aexit__())
        finally:
            BACKGROUND.leave()

    async def connect(self, **options: Any) -> Client:
        """A client of this gateway; `options` are those of `Client.connect`."""
        client = await Client.connect(self.targets, **options)
        self._clients.append(client)
        return client

    @property
    def step_requests(self) -> Sequence[pb.StepRequest]:
        """Every Step that arrived, tries included, oldest first."""
        return tuple(self._service.step_requests)

    def fail_next(
        self, reason: Reason, message: str = "refused by the test", *, retry_after: float | None = None
    ) -> None:
        """The next call, of any kind, fails with `reason`. Mishaps happen in the order they were asked for."""
        self._service.mishaps.append(Mishap(refusal=refusal(reason, message, retry_after=retry_after)))

    def break_next_step(self, *, after_tokens: int = 0) -> None:
        """The next step's stream breaks when about so many tokens were sent, before the commit; before any, if the step
        is one without deltas, as `Session.run` takes."""
        self._service.mishaps.append(Mishap(break_after=after_tokens))

    def lose_next_commit(self) -> None:
        """The next step is committed, but its stream breaks before the client hears of it."""
        self._service.mishaps.append(Mishap(lose_commit=True))

    def restart_next_step(self, *, after_tokens: int = 0) -> None:
        """The next step's output is void when about so many tokens were sent, and comes again."""
        self._service.mishaps.append(Mishap(restart_after=after_tokens))

    def change_model(self, revision: str, *, migrates: bool = True) -> None:
        """The pool's model is another revision from now on. At their next step sessions get a new log (`Migrated`), or,
        when they do not migrate, are refused as if no worker served the old one any more."""
        self._runner.pool = replace(self._runner.pool, active_revision=revision, migrates=migrates)

    def roll_back(self, session_id: str, *, steps: int = 1) -> None:
        """The store forgets the session's last steps. Raises KeyError when there is no such session."""
        self._service.roll_back(session_id, steps)


_SERVER_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
]
