"""Clients that send their whole history with every request, for tests of a whole gateway."""

from typing import Any

from gateway_driver import World
from roost.contract.events import Committed
from roost.contract.messages import Message, MessageRole
from roost_gateway.core.caller import ANYONE, Caller
from roost_gateway.core.conversations import Conversations, ConversationStep
from roost_gateway.recognition.conversation import Conversation, Match, Recognised

T, U = MessageRole.TOOL, MessageRole.USER
CALLS = (("read", "{}"), ("list", "{}"))
"""Of a null worker's replies."""


class Agent:
    """A client that sends its whole history with every request."""

    def __init__(self, conversations: Conversations, caller: Caller = ANYONE, **fields: Any) -> None:
        self.conversations = conversations
        self.caller = caller
        self.fields = {"model": "null", "system": "Be brief.", **fields}
        self.history: list[Message] = []
        self.matches: list[Recognised] = []

    def step(self, **fields: Any) -> Any:
        asked = Conversation(**{**self.fields, "messages": tuple(self.history), **fields})
        return self.conversations.step(asked, self.caller)

    async def ask(self, **fields: Any) -> Committed:
        """The reply to the history."""
        async with self.step(**fields) as step:
            self.matches.append(step.recognised)
            return await last(step)

    async def say(self, text: str, **fields: Any) -> Committed:
        """The reply to a text, or to as many results as the last turn has calls; both join the history."""
        self.history += self.answer(text)
        committed = await self.ask(**fields)
        self.history.append(committed.output)
        return committed

    def answer(self, text: str) -> list[Message]:
        """What the client says next."""
        calls = self.history[-1].tool_calls if self.history else ()
        return [Message(T, text, tool_call_id=call.id) for call in calls] or [Message(U, text)]

    @property
    def kinds(self) -> list[Match]:
        return [recognised.match for recognised in self.matches]

    @property
    def sessions(self) -> int:
        return len({recognised.session_id for recognised in self.matches})


def agent(w: World, **fields: Any) -> Agent:
    return Agent(w.gateway.life.conversations, **fields)


async def last(step: ConversationStep) -> Committed:
    events = [event async for event in step.events]
    assert isinstance(events[-1], Committed)
    return events[-1]
