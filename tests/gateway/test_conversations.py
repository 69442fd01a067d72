"""Conversations that come whole, over a real Redis and null workers: in which session each step runs."""

from gateway_driver import world
from redis_servers import RedisServer
from roost.contract.events import Committed, Event
from roost.contract.messages import Message, MessageRole
from roost_gateway.core.caller import ANYONE
from roost_gateway.core.conversations import Conversations
from roost_gateway.recognition.conversation import Conversation, Match, Recognised

U, A, T = MessageRole.USER, MessageRole.ASSISTANT, MessageRole.TOOL


class Agent:
    """A client that sends its whole history with every request."""

    def __init__(self, conversations: Conversations, **fields) -> None:
        self.conversations = conversations
        self.fields = fields
        self.history: list[Message] = []
        self.matches: list[Recognised] = []

    async def say(self, *messages: Message, **fields) -> Committed:
        self.history += messages
        committed = await self.request(**fields)
        self.history.append(committed.output)
        return committed

    async def request(self, **fields) -> Committed:
        conversation = Conversation(**{"model": "null", "messages": tuple(self.history), **self.fields, **fields})
        async with self.conversations.step(conversation, ANYONE) as step:
            self.matches.append(step.recognised)
            events: list[Event] = [event async for event in step.events]
        assert isinstance(events[-1], Committed)
        return events[-1]


async def test_a_conversation_is_one_session(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        agent = Agent(w.gateway.life.conversations, system="Be brief.")
        for number in range(3):
            await agent.say(Message(U, f"question {number}"))
        assert [match.match for match in agent.matches] == [Match.NEW, Match.CONTINUED, Match.CONTINUED]
        assert len({match.session_id for match in agent.matches}) == 1
        assert [match.log_tokens for match in agent.matches] == [0, 12, 24]
        assert [len(start.messages) for start in w.worker.starts] == [1, 1, 1]
