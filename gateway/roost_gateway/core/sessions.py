"""Sessions apart from their steps: open, read, list, hold, evict, close, delete."""

from collections.abc import Callable

from roost.contract import requests
from roost.contract.loghash import unpack_ids
from roost.contract.names import new_session_id, pool_of
from roost.contract.pool_document import PoolDocument, PoolRole
from roost.contract.reasons import Reason
from roost.contract.refused import Refused, check, invalid
from roost.store.records import Descriptor, NewSession
from roost.v1 import session_service_pb2 as pb
from roost_gateway import convert
from roost_gateway.core.parts import Parts
from roost_gateway.fleet.pools import require_open
from roost_gateway.front.credentials import Identity

_DEFAULT_PAGE, _DEFAULT_STEPS = 100, 20
_MAX_SCANNED_PAGES = 20


class Sessions:
    """What SessionService answers without a worker's engine. Every method raises Refused or StoreUnavailableError."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def open(self, request: pb.OpenSessionRequest, caller: Identity) -> pb.Session:
        check(requests.open_session(request))
        check(requests.schemas_of_tools(request.tools), Reason.INVALID_SCHEMA)
        pool = await self.caller_pool(request.pool, caller)
        require_open(pool)
        role = _role(pool, request.role)
        await self._check_parent(request.parent_session_id, caller)
        descriptor = await self._parts.store.open(
            NewSession(
                session_id=new_session_id(pool.pool),
                tenant=caller.tenant,
                role=role.name,
                model=pool.model,
                model_revision=pool.active_revision,
                system=request.system,
                tools=tuple(convert.tool_to_record(tool) for tool in request.tools),
                task=request.task,
                parent=request.parent_session_id,
                labels=dict(request.labels),
                request_id=request.request_id,
                ttl_ms=pool.idle_ttl_ms,
            )
        )
        self._parts.facts.put(descriptor)
        return await self._described(descriptor)

    async def get(self, session_id: str, caller: Identity) -> pb.Session:
        self.check_id(session_id, caller)
        return await self._described(await self._parts.store.get(session_id, caller.tenant))

    async def list_sessions(self, request: pb.ListSessionsRequest, caller: Identity) -> pb.ListSessionsResponse:
        """One page. A page may be short, and even empty, before the end when filters pass over many sessions."""
        pool = await self.caller_pool(request.pool, caller)
        size = _page_size(request.page_size, _DEFAULT_PAGE, requests.MAX_PAGE_SESSIONS)
        if request.page_token and pool_of(request.page_token) != pool.pool:
            raise invalid([("page_token", "is not of this list; begin again without it")])
        answer, after = pb.ListSessionsResponse(), request.page_token
        for _ in range(_MAX_SCANNED_PAGES):
            batch = await self._parts.store.list_sessions(pool.pool, caller.tenant, after, size)
            for session in await self._describe_all(pool, batch):
                if _selected(session, request):
                    answer.sessions.append(session)
                    if len(answer.sessions) == size:
                        answer.next_page_token = session.id
                        return answer
            if len(batch) < size:
                return answer
            after = batch[-1].session_id
        answer.next_page_token = after
        return answer

    async def list_steps(self, request: pb.ListStepsRequest, caller: Identity) -> pb.ListStepsResponse:
        self.check_id(request.session_id, caller)
        size = _page_size(request.page_size, _DEFAULT_STEPS, requests.MAX_PAGE_STEPS)
        first = _index(request.page_token)
        descriptor = await self._parts.store.get(request.session_id, caller.tenant)
        generation = request.generation or descriptor.generation
        if generation > descriptor.generation:
            raise invalid([("generation", f"the session has {descriptor.generation}")])
        entries = await self._parts.store.log(request.session_id, generation, first, size + 1)
        answer = pb.ListStepsResponse()
        for entry in entries[:size]:
            step = answer.steps.add()
            step.CopyFrom(convert.committed_step(entry, generation))
            if request.include_token_ids:
                await self._add_ids(step, request.session_id, generation)
        if len(entries) > size:
            answer.next_page_token = str(first + size)
        return answer

    async def hold(self, request: pb.HoldSessionRequest, caller: Identity) -> pb.Session:
        self.check_id(request.session_id, caller)
        check(requests.hold(request))
        head = convert.head_from_proto(request.expected_head) if request.HasField("expected_head") else None
        descriptor = await self._parts.store.hold(
            request.session_id,
            caller.tenant,
            request.tool,
            request.expect_seconds,
            head,
            request.expected_head.generation,
        )
        worker = self._parts.fleet.workers.get(descriptor.pool, descriptor.owner)
        if worker is not None:
            clients = self._parts.fleet.clients
            clients.hold(descriptor.pool, worker, request.session_id, request.tool, request.expect_seconds)
        return await self._described(descriptor)

    async def evict(self, request: pb.EvictSessionRequest, caller: Identity) -> pb.EvictSessionResponse:
        self.check_id(request.session_id, caller)
        descriptor, epoch = await self._parts.store.evict(request.session_id, caller.tenant)
        dropped, everywhere = await self._evict_everywhere(request.session_id, epoch)
        pool = await self._pool_or_none(descriptor.pool)
        session = convert.session(descriptor, pool, None) if everywhere else await self._described(descriptor)
        return pb.EvictSessionResponse(session=session, evicted_tokens=dropped)

    async def close(self, session_id: str, caller: Identity) -> pb.Session:
        self.check_id(session_id, caller)
        return await self._described(await self._parts.store.close(session_id, caller.tenant))

    async def delete(self, session_id: str, caller: Identity) -> None:
        self.check_id(session_id, caller)
        epoch = await self._parts.store.delete(session_id, caller.tenant)
        await self._evict_everywhere(session_id, epoch)

    def check_id(self, session_id: str, caller: Identity) -> str:
        """The pool of a session that the caller may ask for. Raises Refused: SESSION_NOT_FOUND, whatever the cause."""
        pool = pool_of(session_id)
        if pool is None or not caller.may_use(pool):
            raise Refused(Reason.SESSION_NOT_FOUND, "there is no such session")
        return pool

    async def caller_pool(self, name: str, caller: Identity) -> PoolDocument:
        """The named pool, or the only one of the caller."""
        if name:
            if not caller.may_use(name):
                raise Refused(
                    Reason.POOL_NOT_ALLOWED,
                    f"this API key may not use pool {name!r}; name one of its own",
                )
            return await self._parts.fleet.pools.get(name)
        own = sorted(pool for pool in self._parts.fleet.pools.names if caller.may_use(pool))
        if len(own) != 1:
            raise invalid([("pool", f"must be given: there are {len(own)} pools to choose from")])
        return await self._parts.fleet.pools.get(own[0])

    async def _check_parent(self, parent: str, caller: Identity) -> None:
        if not parent:
            return
        try:
            self.check_id(parent, caller)
            await self._parts.facts.get(parent, caller.tenant)
        except Refused as error:
            raise Refused(Reason.SESSION_NOT_FOUND, "there is no such session: parent_session_id") from error

    async def _evict_everywhere(self, session_id: str, epoch: int) -> tuple[int, bool]:
        """On every worker: what they have published may be a second old."""
        pool = pool_of(session_id) or ""
        return await self._parts.fleet.clients.evict(pool, self._parts.fleet.workers.states(pool), session_id, epoch)

    async def _described(self, descriptor: Descriptor) -> pb.Session:
        return (await self._describe_all(await self._pool_or_none(descriptor.pool), [descriptor]))[0]

    async def _describe_all(self, pool: PoolDocument | None, descriptors: list[Descriptor]) -> list[pb.Session]:
        where: dict[str, tuple[str, int]] = {}
        if descriptors:
            ids = [descriptor.session_id for descriptor in descriptors]
            where = await self._parts.fleet.workers.residency(descriptors[0].pool, ids)
        return [convert.session(item, pool, where.get(item.session_id)) for item in descriptors]

    async def _pool_or_none(self, name: str) -> PoolDocument | None:
        """A session stays readable when its pool's document is gone."""
        try:
            return await self._parts.fleet.pools.get(name)
        except Refused:
            return None

    async def _add_ids(self, step: pb.CommittedStep, session_id: str, generation: int) -> None:
        prompt, output = step.usage.prompt_tokens, step.usage.output_tokens
        start = step.head.length - prompt - output
        ids = unpack_ids(await self._parts.store.ids(session_id, generation, start, step.head.length))
        step.prompt_token_ids.extend(ids[:prompt])
        step.output_token_ids.extend(ids[prompt:])


def _role(pool: PoolDocument, name: str) -> PoolRole:
    """The named role, or the default one. Raises Refused: ROLE_NOT_FOUND."""
    if not name and pool.roles:
        return pool.roles[0]
    for role in pool.roles:
        if role.name == name:
            return role
    known = ", ".join(role.name for role in pool.roles) or "none"
    raise Refused(Reason.ROLE_NOT_FOUND, f"pool {pool.pool!r} has no role {name!r}; its roles: {known}")


def _page_size(asked: int, default: int, most: int) -> int:
    check(requests.page_size(asked, most))
    return asked or default


def _index(token: str) -> int:
    if token and not (token.isascii() and token.isdigit() and len(token) < 10):
        raise invalid([("page_token", "is not of this list; begin again without it")])
    return int(token or 0)


def _selected(session: pb.Session, request: pb.ListSessionsRequest) -> bool:
    wanted: list[Callable[[], bool]] = [
        lambda: request.state in (pb.SESSION_STATE_UNSPECIFIED, session.state),
        lambda: request.tier in (pb.TIER_UNSPECIFIED, session.tier),
        lambda: request.role in ("", session.role),
        lambda: request.task in ("", session.task),
    ]
    return all(test() for test in wanted)
