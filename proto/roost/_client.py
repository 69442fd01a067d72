"""The client."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, Self

from roost import wire
from roost._messages import as_labels
from roost._retry import RetryConfig
from roost._session import Session, new_key
from roost._transport import TLSConfig, Transport
from roost.contract.messages import Tool
from roost.contract.names import pool_of
from roost.contract.sessions import SessionInfo, SessionState, Tier
from roost.v1 import session_service_pb2 as pb


class Named(Protocol):
    """A session's handle or its record."""

    @property
    def id(self) -> str:
        """Session's name."""


class Client:
    """A connection to Roost's gateways. Create it with `Client.connect`, and use it as an async context manager.

        async with await Client.connect("127.0.0.1:7433") as client:
            session = await client.open(role="coder", system="You are terse.")
            async for event in session.step("Say hello."):
                ...

    A client belongs to the event loop in which it was connected. Any number of its tasks may use it; a forked process
    may not.
    """

    def __init__(self, transport: Transport, pool: str | None) -> None:
        self._transport = transport
        self._pool = pool or ""

    @classmethod
    async def connect(
        cls,
        targets: str | Sequence[str],
        *,
        api_key: str | None = None,
        pool: str | None = None,
        tls: TLSConfig | bool | None = None,
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        retry: RetryConfig | None = None,
        lazy: bool = False,
    ) -> Self:
        """Connects to one of `targets`, gRPC addresses such as `host:port` or `dns:///name:port`.

        With several targets, calls go to the first that answers, and to the next when it fails. To spread clients over
        the gateways, give each a different order, or one `dns:///` name with several addresses. A proxy that the
        environment names (`https_proxy`, `http_proxy`) is used for gateways elsewhere, not for those on this machine or
        in the same cluster: `localhost`, names without a dot, `.svc`, `.cluster.local`.

        `pool` (`namespace/name`) is the default for `open` and `sessions`. `timeout` bounds each call except a step,
        retries included, in seconds. `tls=True` uses the system's root certificates. With `lazy` it does not wait until
        a gateway is reachable.

        Raises UnavailableError when no gateway can be reached, or none answers within `connect_timeout` seconds, and
        ValueError when there is no target or the key cannot be sent.
        """
        addresses = [targets] if isinstance(targets, str) else list(targets)
        if not addresses or not all(addresses):
            raise ValueError("connect needs at least one target, such as `127.0.0.1:7433`")
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("api_key holds characters that no key has; is there a line break at its end?")
        config = TLSConfig() if tls is True else (tls or None)
        transport = Transport(addresses, tls=config, api_key=api_key, timeout=timeout, retry=retry or RetryConfig())
        if not lazy:
            try:
                await transport.connect(connect_timeout)
            except BaseException:
                await transport.close()
                raise
        return cls(transport, pool)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channels. Steps that are still running are cancelled."""
        await self._transport.close()

    async def open(
        self,
        *,
        pool: str | None = None,
        role: str = "",
        system: str = "",
        tools: Sequence[Tool] = (),
        task: str = "",
        parent: Named | str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> Session:
        """Opens a session.

        Without a pool it is the caller's only pool, without a role the pool's first. `parent` is the session that
        spawns this one: a handle, a `SessionInfo` or a name; its task is the new session's if none is given.
        `request_id` makes the call idempotent; by default it is drawn at random. Whether calls are held to all of a
        tool's schema is in `(await session.info()).tools`.

        Raises InvalidSchemaError for a tool whose schema cannot be used, StepTooLongError when system text and tools
        leave no room for a step, PoolNotFoundError, RoleNotFoundError and other RoostErrors, and TypeError when a label
        is not a string.
        """
        request = pb.OpenSessionRequest(
            pool=pool or self._pool,
            role=role,
            system=system,
            tools=wire.tools_to_wire(tools),
            task=task,
            parent_session_id=parent if isinstance(parent, str) else parent.id,
            request_id=request_id or new_key(),
            labels=as_labels(labels),
        )
        opened = (await self._transport.call(lambda stub: stub.OpenSession, request)).session
        return Session(self._transport, opened.id, wire.head_from_wire(opened.head))

    def session(self, session_id: str) -> Session:
        """Returns a handle on an existing session. Nothing is sent, so the handle knows no head until its first call.

        Raises ValueError when `session_id` does not have the form `namespace/pool/id`.
        """
        if pool_of(session_id) is None:
            raise ValueError(f"{session_id!r} is not a session's name; they look like namespace/pool/{'0' * 26}")
        return Session(self._transport, session_id)

    async def sessions(
        self,
        *,
        pool: str | None = None,
        state: SessionState | None = None,
        tier: Tier | None = None,
        role: str = "",
        task: str = "",
        page_size: int = 0,
    ) -> AsyncIterator[SessionInfo]:
        """Iterates over the caller's sessions in a pool, oldest first, that match all filters.

        They are read in pages of `page_size` (1 to 1000; 0 leaves it to the gateway) as they are needed. Raises
        PoolNotFoundError and other RoostErrors.
        """
        request = pb.ListSessionsRequest(
            pool=pool or self._pool,
            page_size=page_size,
            state=wire.enum_value(pb.SessionState, "SESSION_STATE", state and SessionState(state)),
            tier=wire.enum_value(pb.Tier, "TIER", tier and Tier(tier)),
            role=role,
            task=task,
        )
        while True:
            page = await self._transport.call(lambda stub: stub.ListSessions, request)
            for session in page.sessions:
                yield wire.session_from_wire(session)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
