"""Conversations that run at the same time at two gateways, over a real Redis: each log is its client's history."""

import asyncio
import random

import pytest

from conversation_driver import CALLS, Agent
from gateway_driver import LIMIT_SECONDS, Rig
from null_script import Script
from rewriting_clients import KEEP_RESULTS, essence
from roost.contract.messages import Message, MessageRole
from roost_gateway.core.caller import Caller
from roost_gateway.core.life import GatewayRuntime

U = MessageRole.USER
ACTIONS = ("go on", "go on", "go on", "edit", "repeat", "branch", "leave", "begin again")


class RandomAgent(Agent):
    """A client that does anything with its history. After each step its session's log is what it has said and heard."""

    def __init__(self, lives: list[GatewayRuntime], seed: int, tenant: str, family: str) -> None:
        super().__init__(lives[0].conversations, Caller(tenant, frozenset({"*"})), family=family)
        self.lives = lives
        self.rng = random.Random(seed)
        self.echo = KEEP_RESULTS[self.rng.choice(sorted(KEEP_RESULTS))]

    async def live(self, rounds: int) -> None:
        await self.speak("hi")
        for _ in range(rounds):
            await self.act(self.rng.choice(ACTIONS))

    async def act(self, action: str) -> None:
        """The texts are few, so that clients come to have equal histories."""
        text = self.rng.choice(("more", "again", f"{self.rng.random()}"))
        if action == "begin again":
            self.history = []
        elif action == "edit":
            places = [place for place, message in enumerate(self.history) if message.role is U]
            self.history = self.history[: self.rng.choice(places)]
        elif action == "branch":
            twin = RandomAgent(self.lives, self.rng.randrange(1000), self.caller.tenant, f"{self.rng.random()}")
            twin.history = list(self.history)
            await twin.speak("as a twin")
        elif action == "leave":
            async with self.step(messages=(*self.echo(self.history, self.rng), Message(U, text))):
                pass
        if action == "repeat":
            await self.request(self.history[:-1])
        else:
            await self.speak(text)

    async def speak(self, text: str) -> None:
        await self.request([*self.history, *self.answer(text)])

    async def request(self, history: list[Message]) -> None:
        life = self.rng.choice(self.lives)
        self.conversations = life.conversations
        committed = await self.ask(messages=tuple(self.echo(history, self.rng)))
        self.history = [*history, committed.output]
        steps = (await life.gateway.list_steps(self.matches[-1].session_id, self.caller, page_size=100)).steps
        place = next(n for n, step in enumerate(steps) if step.step_id == committed.step_id)
        log = [message for step in steps[: place + 1] for message in (*step.messages, step.output)]
        assert essence(log) == essence(self.history)


@pytest.mark.parametrize("calls", [(), CALLS], ids=["texts", "calls"])
async def test_at_any_time_each_log_is_the_history_of_its_clients(rig: Rig, calls: tuple[tuple[str, str], ...]) -> None:
    await rig.worker(script=Script(tokens=2, calls=calls))
    lives = [(await rig.gateway()).life for _ in range(2)]
    agents = [RandomAgent(lives, number, "ab"[number % 2], "" if number % 3 else f"{number}") for number in range(8)]
    async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(agent.live(10))
