"""`roost.store.moves.SessionMoves` in memory. Pure but for its clock."""

from collections.abc import Callable, Mapping

from roost.contract.reasons import Reason
from roost.store.keys import MOVES_DONE
from roost.store.memory_pool import MemoryPool
from roost.store.memory_session import MemorySession
from roost.store.moves import Move, Resident
from roost.store.records import State
from roost.store.refusals import refused
from roost.store.residency import session_of


class MemoryMoves:
    """See the interface for what each call does."""

    def __init__(
        self, clock: Callable[[], int], sessions: Mapping[str, MemorySession], pool: Callable[[str], MemoryPool]
    ) -> None:
        self._clock, self._sessions, self._pool = clock, sessions, pool
        self._movers: dict[tuple[str, str], tuple[str, int]] = {}
        """Pool and worker -> who moves its sessions, and until when, in ms."""
        self._moved: dict[str, int] = {}
        """Sessions -> when they were moved last."""
        self._done: dict[str, int] = {}
        """Requests -> the epochs that they returned."""

    async def claim(self, pool: str, worker: str, gateway: str, lease_ms: int) -> bool:
        return self._hold(pool, worker, gateway, gateway, lease_ms)

    async def finish(self, pool: str, worker: str, gateway: str, keep_ms: int) -> None:
        self._hold(pool, worker, gateway, MOVES_DONE, keep_ms)

    def _hold(self, pool: str, worker: str, gateway: str, value: str, lease_ms: int) -> bool:
        if self._mover(pool, worker) not in ("", gateway):
            return False
        self._movers[pool, worker] = value, self._clock() + lease_ms
        return True

    def _mover(self, pool: str, worker: str) -> str:
        holder, until_ms = self._movers.get((pool, worker), ("", 0))
        return holder if until_ms > self._clock() else ""

    async def residents(self, pool: str, worker: str) -> list[Resident]:
        published = self._pool(pool).residency.get(worker, {})
        sessions = map(self._living, dict.fromkeys(map(session_of, published)))
        return [self._resident(session) for session in sessions if session is not None]

    async def move(self, move: Move) -> int:
        session = self._living(move.session_id)
        if session is None:
            raise refused(Reason.SESSION_NOT_FOUND)
        if move.request in self._done:
            return self._done[move.request]
        record = session.record
        session.check_open()
        if self._mover(record.pool, move.worker) != move.gateway or record.owner != move.worker:
            raise session.refusal(Reason.ATTEMPT_FENCED)
        if session.attempt is not None:
            raise session.refusal(Reason.ANOTHER_STEP_RUNNING)
        session.check_head(move.head, move.generation)
        self._take_footprint_along(session, move)
        session.change(epoch=record.epoch + 1, owner=move.to, kv_of="", kv_since_ms=0)
        self._done[move.request] = session.record.epoch
        self._moved[move.session_id] = self._clock()
        return session.record.epoch

    def _take_footprint_along(self, session: MemorySession, move: Move) -> None:
        working_set = self._pool(session.record.pool).working_set
        live = working_set.live.get(session.short_name)
        if live is not None and live.worker == move.worker:
            working_set.put(session.short_name, move.to, live.footprint, live.end_ms, promised=live.promised)

    def _living(self, session_id: str) -> MemorySession | None:
        session = self._sessions.get(session_id)
        return None if session is None or session.is_gone(self._clock()) else session

    def _resident(self, session: MemorySession) -> Resident:
        record = session.record
        return Resident(
            session_id=record.session_id,
            tenant=record.tenant,
            owner=record.owner,
            log_tokens=record.head.length,
            model_revision=record.bound_revision,
            busy=session.attempt is not None,
            closed=record.state is State.CLOSED,
            updated_ms=record.updated_ms,
            moved_ms=self._moved.get(record.session_id, 0),
            hold=record.hold,
        )
