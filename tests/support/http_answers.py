"""Steps without a gateway, for tests of the HTTP front: committed values, and conversations that play events."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from roost.contract.events import Committed, Event, FinishReason, Usage
from roost.contract.heads import Head
from roost.contract.messages import Message, MessageRole, ToolCall
from roost_gateway.core.caller import Caller
from roost_gateway.front.http.sse import ServerEvent
from roost_gateway.recognition.conversation import Conversation, Match, Recognised

USAGE = Usage(10, 2)
RECOGNISED = Recognised("team/p:1", "step1", Match.NEW, 0)


def committed(
    content: str,
    calls: tuple[ToolCall, ...] = (),
    reasoning: str = "",
    finish_reason: FinishReason = FinishReason.STOP,
    usage: Usage = USAGE,
) -> Committed:
    """A committed step of 2 tokens at the end of a log of 102."""
    output = Message(MessageRole.ASSISTANT, content, calls)
    times = {"queue_ms": 0, "first_token_ms": 0, "seed": 0, "replayed": False, "output_tokens": 2, "failovers": 0}
    return Committed("step1", output, finish_reason, usage, Head(102), 3, **times, reasoning=reasoning)


def data_of(event: ServerEvent) -> Any:
    """The data of an event as its client reads it."""
    lines = event.encode().decode().splitlines()
    data = next(line.removeprefix("data: ") for line in lines if line.startswith("data: "))
    return data if data == "[DONE]" else json.loads(data)


@dataclass(frozen=True, slots=True)
class PlayedModel:
    name: str
    pool: str
    context_tokens: int


@dataclass(frozen=True, slots=True)
class PlayedStep:
    recognised: Recognised
    events: AsyncIterator[Event]


@dataclass(slots=True)
class PlayedConversations:
    """Takes the place of the core's conversations. `play` yields the events of each step, or raises."""

    play: Callable[[], AsyncIterator[Event]]
    recognised: Recognised = RECOGNISED
    asked: list[tuple[Conversation, Caller]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a step has been left before its end."""

    @asynccontextmanager
    async def step(self, conversation: Conversation, caller: Caller) -> AsyncIterator[PlayedStep]:
        self.asked.append((conversation, caller))
        try:
            yield PlayedStep(self.recognised, self.play())
        except asyncio.CancelledError:
            self.left.set()
            raise

    async def models(self, caller: Caller) -> list[PlayedModel]:
        return [PlayedModel("m", "team/p", 2048)] if caller.may_use("team/p") else []


@dataclass(frozen=True, slots=True)
class PlayedLife:
    """Takes the place of `GatewayRuntime`."""

    conversations: PlayedConversations
    ready: bool = True
