"""Opens a session that a worker has checked, so that no session is opened that no step could use."""

from collections.abc import Sequence
from dataclasses import replace

from roost.contract.messages import ToolDefinition
from roost.contract.pool_document import PoolDocument
from roost.contract.refused import Refused
from roost.contract.sessions import SessionTool
from roost.store.interface import SessionStore
from roost.store.records import Descriptor, NewSession
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.routing.choice import StepNeed

CHECK_SECONDS = 6.0
"""Limit of a worker's check; a second more than it waits for its compile processes by default."""
WRITE_SECONDS = 1.0
"""What the check leaves of the caller's time, for the session to be written and returned."""


class Opening:
    """Opens sessions. Without a worker that answers they are opened unchecked: the first step tells then."""

    def __init__(self, store: SessionStore, fleet: Fleet) -> None:
        self._store = store
        self._workers = fleet.workers
        self._clients = fleet.clients

    async def open(
        self, new: NewSession, tools: Sequence[ToolDefinition], pool: PoolDocument, seconds_left: float | None
    ) -> Descriptor:
        """Writes the session with its tools, or returns the one that the same request opened before. The check leaves
        `WRITE_SECONDS` of the time after which the caller gives up.

        Raises Refused: INVALID_SCHEMA, STEP_TOO_LONG, INVALID_REQUEST, STORE_FULL; StoreAwayError.
        """
        try:
            checked = await self._check(new, tools, pool, seconds_left)
        except Refused:
            opened = await self._opened(new, pool)
            if opened is None:
                raise
            return opened
        records = (_record(tool, result) for tool, result in zip(tools, checked, strict=True))
        return await self._store.open(replace(new, tools=tuple(records)))

    async def _check(
        self, new: NewSession, tools: Sequence[ToolDefinition], pool: PoolDocument, seconds_left: float | None
    ) -> Sequence[SessionTool]:
        unchecked = [SessionTool(tool.name) for tool in tools]
        limit = CHECK_SECONDS if seconds_left is None else min(CHECK_SECONDS, seconds_left - WRITE_SECONDS)
        if limit <= 0 or (not tools and not new.system):
            return unchecked
        need = StepNeed(new.session_id, pool.active_revision, log_tokens=0, new_tokens=1)
        choice = self._workers.choose(pool.pool, need, frozenset())
        if choice is None:
            return unchecked
        return await self._clients.check_session(choice.worker, pool, new, tools, limit) or unchecked

    async def _opened(self, new: NewSession, pool: PoolDocument) -> Descriptor | None:
        """The session that the same request opened, perhaps before the pool's model changed."""
        return await self._store.opened(pool.pool, new.tenant, new.request_id) if new.request_id else None


def _record(tool: ToolDefinition, checked: SessionTool) -> dict[str, str]:
    record = {"name": tool.name, "description": tool.description, "parameters": tool.parameters_json}
    return record if checked.constrained is None else {**record, "keyword": checked.keyword}
