"""What the store should do, in plain Python: no expiry by clock, no Redis, no scripts."""

from dataclasses import dataclass, field

from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.refusals import refused
from store_heads import after, check_head
from store_pool_model import Attempt, Pool, Waiter


@dataclass
class Step:
    step: str
    digest: bytes
    nonce: bytes
    prompt: tuple[int, ...]
    output: tuple[int, ...]
    head: Head


@dataclass
class Session:
    pool: str
    tenant: str
    log: list[Step] = field(default_factory=list)
    epoch: int = 0
    attempt: Attempt | None = None
    tool: str | None = None
    owner: str = ""
    closed: bool = False
    used: int = 0
    committed: dict[str, tuple[int, Step]] = field(default_factory=dict)
    """Index and content of each step as it was committed."""
    older: list[list[Step]] = field(default_factory=list)
    """Logs of the generations before."""
    revision: str = "rev-1"
    cached: set[str] = field(default_factory=set)
    """Workers that publish that they have it cached."""

    @property
    def generation(self) -> int:
        return len(self.older) + 1

    @property
    def head(self) -> Head:
        return self.log[-1].head if self.log else Head()


@dataclass(frozen=True)
class Taken:
    epoch: int
    seed: int
    reserved: str
    fenced: tuple[int, bytes, str] | None


class StoreModel:
    """Raises Refused as the store does. `clock` orders the waiters; the caller moves it before each call."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.pools: dict[str, Pool] = {}
        self.clock = 0

    def pool(self, name: str) -> Pool:
        return self.pools.setdefault(name, Pool())

    def find(self, session_id: str, tenant: str | None = None) -> Session:
        session = self.sessions.get(session_id)
        if session is None or (tenant is not None and session.tenant != tenant):
            raise refused(Reason.SESSION_NOT_FOUND)
        return session

    def begin(
        self,
        session_id: str,
        tenant: str,
        step: str,
        digest: bytes,
        expected: Head | None,
        nonce: bytes,
        seed: int,
        expired: bool,
        new_tokens: int,
        budget: int,
        max_steps: int,
        most: int,
        priority: int,
        generation: int = 0,
    ) -> Taken | Step:
        session = self.find(session_id, tenant)
        if step in session.committed:
            _, done = session.committed[step]
            if done.digest != digest:
                raise refused(Reason.STEP_ID_REUSED)
            return done
        live = session.attempt
        retry = live is not None and live.step == step
        if live and retry and live.digest != digest:
            raise refused(Reason.STEP_ID_REUSED)
        if session.closed:
            raise refused(Reason.SESSION_CLOSED)
        check_head(session, expected, generation)
        if live and not retry and not live.expired:
            raise refused(Reason.ANOTHER_STEP_RUNNING)
        if budget and session.used + new_tokens > budget:
            raise refused(Reason.BUDGET_EXHAUSTED)
        if max_steps and len(session.log) >= max_steps:
            raise refused(Reason.STEP_LIMIT_REACHED)
        if most and session.head.length + new_tokens > most:
            raise refused(Reason.STEP_TOO_LONG)
        return self._take(session, live, retry, step, digest, nonce, seed, expired, new_tokens, priority)

    def _take(
        self,
        session: Session,
        live: Attempt | None,
        retry: bool,
        step: str,
        digest: bytes,
        nonce: bytes,
        seed: int,
        expired: bool,
        new_tokens: int,
        priority: int,
    ) -> Taken:
        pool = self.pool(session.pool)
        former = live.nonce if live else b""
        place = pool.enqueued(former) if retry else None
        rank = (priority, self.clock if place is None else place, nonce.hex())
        tokens, reserved, line = session.head.length + new_tokens, "", None
        candidates = [live.worker] if live and retry and live.worker else []
        candidates += [session.owner] if session.owner in session.cached else []
        for worker in dict.fromkeys(candidates):
            if reserved or not pool.alive(worker):
                continue
            held, gone = pool.reservations.get((worker, former), (0, True))
            inherited = held if retry and live and worker == live.worker and not gone else 0
            may = bool(inherited) or not pool.must_wait(worker, rank, nonce, former)
            if inherited >= tokens:
                reserved, tokens = worker, inherited
            elif may and pool.fits(worker, tokens, former):
                reserved = worker
            elif line is None:
                line = pool.workers[worker].revision
        fenced = (live.epoch, live.nonce, live.worker) if live and retry else None
        session.epoch += 1
        kept = live.seed if live and retry else seed
        session.attempt = Attempt(session.epoch, nonce, step, digest, kept, reserved, tokens, expired, fenced)
        session.tool = None
        pool.drop(live)
        if not reserved and line is not None:
            pool.find_over()
        pool.purge()
        if reserved:
            pool.reservations[reserved, nonce] = (tokens, expired)
        elif line is not None:
            pool.waiters[nonce] = Waiter(rank, expired, line)
        return Taken(session.epoch, kept, reserved, fenced)

    def attempt(self, session_id: str, epoch: int, nonce: bytes) -> Attempt:
        live = self.find(session_id).attempt
        if live is None or (live.epoch, live.nonce) != (epoch, nonce):
            raise refused(Reason.ATTEMPT_FENCED)
        return live

    def reserve(
        self, session_id: str, epoch: int, nonce: bytes, worker: str, tokens: int, priority: int, line: str
    ) -> bool:
        live = self.attempt(session_id, epoch, nonce)
        pool = self.pool(self.sessions[session_id].pool)
        held, gone = pool.reservations.get((worker, nonce), (0, True))
        mine = 0 if gone else held
        place = pool.enqueued(nonce)
        rank = (priority, self.clock if place is None else place, nonce.hex())
        granted = mine >= tokens or (
            pool.alive(worker)
            and (mine > 0 or not pool.must_wait(worker, rank, nonce))
            and pool.fits(worker, tokens, nonce)
        )
        if not granted:
            pool.find_over()
        pool.purge()
        if not granted:
            pool.waiters[nonce] = Waiter(rank, False, line)
            return False
        pool.drop(live)
        live.worker, live.tokens = worker, max(tokens, mine)
        pool.reservations[worker, nonce] = (live.tokens, False)
        return True

    def release(self, session_id: str, nonce: bytes, worker: str) -> None:
        session = self.sessions.get(session_id)
        pool = self.pool(session_id.rsplit("/", 1)[0])
        pool.reservations.pop((worker, nonce), None)
        pool.waiters.pop(nonce, None)
        if session and session.attempt and (session.attempt.nonce, session.attempt.worker) == (nonce, worker):
            session.attempt.worker = ""

    def commit(
        self, session_id: str, epoch: int, nonce: bytes, step: str, prompt: tuple[int, ...], output: tuple[int, ...]
    ) -> int:
        """Index of the step."""
        session = self.find(session_id)
        if step in session.committed:
            index, done = session.committed[step]
            if done.nonce != nonce:
                raise refused(Reason.ATTEMPT_FENCED)
            return index
        live = self.attempt(session_id, epoch, nonce)
        head = after(session.head, prompt, output)
        session.log.append(Step(step, live.digest, nonce, prompt, output, head))
        session.committed[step] = len(session.log) - 1, session.log[-1]
        session.used += len(prompt) + len(output)
        session.owner = live.worker or "w1"
        self._end(session)
        return len(session.log) - 1

    def migrate(self, session_id: str, epoch: int, nonce: bytes, revision: str, extra: int) -> int:
        """The generation after it; `store_driver.migrate_request` has the new tokens."""
        session, live = self.find(session_id), self.attempt(session_id, epoch, nonce)
        if not live.migrated:
            old, session.log = session.log, []
            for index, step in enumerate(old):
                prompt, output = (900 + index,), tuple(range(800, 801 + extra))
                head = after(session.head, prompt, output)
                session.log.append(Step(step.step, step.digest, step.nonce, prompt, output, head))
            session.older.append(old)
            session.owner, session.revision, live.migrated = "", revision, True
        return session.generation

    def abort(self, session_id: str, epoch: int, nonce: bytes) -> None:
        try:
            self.attempt(session_id, epoch, nonce)
        except Refused:
            return
        self._end(self.sessions[session_id])

    def renew(self, session_id: str, epoch: int, nonce: bytes, expired: bool) -> bool:
        try:
            live = self.attempt(session_id, epoch, nonce)
        except Refused:
            return False
        pool = self.pool(self.sessions[session_id].pool)
        live.expired = expired
        if nonce in pool.waiters:
            pool.waiters[nonce].expired = expired
        if live.worker:
            pool.reservations[live.worker, nonce] = (live.tokens, expired)
        return True

    def _settle(self, session_id: str, tenant: str) -> Session:
        session = self.find(session_id, tenant)
        if session.attempt and not session.attempt.expired:
            raise refused(Reason.ANOTHER_STEP_RUNNING)
        return session

    def hold(self, session_id: str, tenant: str, tool: str, expected: Head | None, generation: int = 0) -> None:
        session = self.find(session_id, tenant)
        if session.closed:
            raise refused(Reason.SESSION_CLOSED)
        check_head(session, expected, generation)
        self._end(self._settle(session_id, tenant))
        session.tool = tool

    def evict(self, session_id: str, tenant: str) -> int:
        session = self._settle(session_id, tenant)
        self._end(session)
        session.owner = ""
        session.epoch += 1
        return session.epoch

    def close(self, session_id: str, tenant: str) -> None:
        session = self._settle(session_id, tenant)
        self._end(session)
        session.closed, session.tool = True, None

    def delete(self, session_id: str, tenant: str) -> int:
        session = self._settle(session_id, tenant)
        self._end(session)
        del self.sessions[session_id]
        return session.epoch + 1

    def _end(self, session: Session) -> None:
        self.pool(session.pool).drop(session.attempt)
        session.attempt = None
