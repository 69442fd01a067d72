"""Counts the tokens of a conversation's prompt, as a worker's tokenizer and template make it."""

import time

from roost.contract.names import new_session_id
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.rules import day_of
from roost_gateway.core.caller import Caller
from roost_gateway.core.models import pool_of_model
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.fleet.pools import require_open
from roost_gateway.recognition.canonical import cleaned
from roost_gateway.recognition.conversation import Conversation
from roost_gateway.routing.choice import StepNeed

COUNT_SECONDS = 10.0
"""Longest time for a count: some megabytes of text take seconds."""


class TokenCounter:
    """Counts by the workers of the pools."""

    def __init__(self, fleet: Fleet) -> None:
        self._pools = fleet.pools
        self._workers = fleet.workers
        self._clients = fleet.clients

    async def count(self, conversation: Conversation, caller: Caller) -> int:
        """Returns the tokens that a new session's prompt with this conversation would have. A session that has the
        history may hold others: the tokens that the model wrote, with its reasoning.

        Raises Refused: POOL_NOT_FOUND, POOL_NOT_ALLOWED, POOL_SUSPENDED, INVALID_REQUEST, NO_WORKER, WORKER_FAILED;
        StoreAwayError.
        """
        pool = await pool_of_model(self._pools, conversation.model, caller)
        require_open(pool)
        need = StepNeed(new_session_id(pool.pool), pool.active_revision, log_tokens=0, new_tokens=1)
        choice = self._workers.choose(pool.pool, need, frozenset())
        if choice is None:
            raise Refused(Reason.NO_WORKER, f"pool {pool.pool} has no worker yet; ask again", retry_seconds=1.0)
        asked = cleaned(conversation, pool.nonce_lines)
        today = day_of(time.time_ns() // 1_000_000)
        return await self._clients.count_tokens(
            choice.worker, pool, asked.system, asked.tools, asked.messages, today, COUNT_SECONDS
        )
