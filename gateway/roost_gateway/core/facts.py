"""A cache of facts about sessions, which spares a step the read of the session's record."""

from dataclasses import replace

from roost.store.interface import SessionStore
from roost.store.records import Descriptor
from roost_gateway.admission.estimate import SessionFacts, facts_of
from roost_gateway.step.call import StepCall

_MAX_FACTS = 100_000


class FactsCache:
    """Facts of the sessions that this gateway read last."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._facts: dict[tuple[str, str], SessionFacts] = {}

    async def get(self, session_id: str, tenant: str) -> SessionFacts:
        """Raises Refused: SESSION_NOT_FOUND; StoreAwayError."""
        facts = self._facts.get((session_id, tenant))
        return facts or self.put(await self._store.get(session_id, tenant))

    def committed(self, call: StepCall) -> None:
        """Notes that a step of the session has been committed."""
        key = call.request.session_id, call.tenant
        facts = self._facts.get(key)
        if facts is not None and not facts.continues:
            self._facts[key] = replace(facts, continues=True)

    def put(self, descriptor: Descriptor) -> SessionFacts:
        while len(self._facts) >= _MAX_FACTS:
            del self._facts[next(iter(self._facts))]
        facts = self._facts[descriptor.session_id, descriptor.tenant] = facts_of(descriptor)
        return facts
