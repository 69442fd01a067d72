"""The demo's agents: each asks, lets the model call a tool, runs it while the session is on hold, and goes on."""

import asyncio
from dataclasses import dataclass

from roost import (
    Client,
    Message,
    RoostError,
    Sampling,
    Session,
    Tool,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    tool_result,
    user,
)
from roost_operator.demo.journal import Journal
from roost_operator.demo.recorder import Recorder
from roost_operator.demo.scene import AgentState, Phase, Scene
from roost_operator.demo.tools import CALCULATE, COUNT, EXPECTED_SECONDS, READ, SEARCH, Toolbox

CALL_TOKENS = 40
TEXT_TOKENS = 32
CALL = ToolChoice(ToolChoiceMode.REQUIRED)
TEXT = ToolChoice(ToolChoiceMode.NONE)


@dataclass(frozen=True)
class Part:
    """An agent's part. A question takes a step with a tool call and one about its result; all but the last, a third."""

    name: str
    role: str
    system: str
    tools: tuple[Tool, ...]
    questions: tuple[str, ...]
    sampling: Sampling
    evict_after: int | None = None
    """Index of the question during whose tool call the agent evicts its session, or None."""

    @property
    def steps(self) -> int:
        return 3 * len(self.questions) - 1


_ROLES: tuple[tuple[str, str, tuple[Tool, ...], Sampling], ...] = (
    ("researcher", "You read documents. Be brief.", (SEARCH, READ), Sampling(temperature=0.0)),
    (
        "analyst",
        "You count and calculate. Be brief.",
        (CALCULATE, COUNT),
        Sampling(temperature=0.0, repetition_penalty=1.1),
    ),
    (
        "reviewer",
        "You review code. Be brief.",
        (READ, COUNT),
        Sampling(temperature=0.0, presence_penalty=0.4, frequency_penalty=0.2),
    ),
)

_QUESTIONS = {
    "researcher": ("Find out what this project says about the {}.", "Look for something else about it."),
    "analyst": ("How large is the folder of the {}?", "Work out how it compares with another one."),
    "reviewer": ("Review what is written about the {}.", "Look at one more document."),
}
_MORE = "Explain why that matters, in two or three sentences."

_TOPICS = ("session", "worker", "gateway", "operator", "store", "demo", "model", "cache")


def cast(sessions: int) -> list[Part]:
    """`sessions` parts over three roles; every third one evicts its session on the way."""
    parts = []
    for number in range(sessions):
        role, system, tools, sampling = _ROLES[number % len(_ROLES)]
        topic = _TOPICS[(number // len(_ROLES)) % len(_TOPICS)]
        questions = tuple(question.format(topic) for question in _QUESTIONS[role])
        # Each role has its turn, so that each role's prefix is rebuilt somewhere.
        evict_after = 1 if number % 3 == (number // 3) % 3 else None
        parts.append(Part(f"{role}-{number // 3 + 1}", role, system, tools, questions, sampling, evict_after))
    return parts


class Agent:
    """Plays one part through one client."""

    def __init__(
        self, part: Part, client: Client, gateway: int, toolbox: Toolbox, journal: Journal, scene: Scene
    ) -> None:
        self.part = part
        self.state = AgentState(part.name, part.role, gateway)
        self.evicted_tokens: int | None = None
        self.session: Session | None = None
        self._client = client
        self._toolbox = toolbox
        self._recorder = Recorder(self.state, part.sampling, journal, scene)
        self._scene = scene
        scene.agents[part.name] = self.state

    async def run(self) -> None:
        """Play the part to its end, or to an error that retries did not cure, which shows in the journal."""
        try:
            await self._play()
            self.state.phase = Phase.DONE
        except RoostError as error:
            self.state.phase = Phase.FAILED
            self._scene.tell(f"{self.part.name} gave up: {error}")

    async def _play(self) -> None:
        part, step = self.part, self._recorder.step
        self.session = await self._client.open(
            role=part.role, system=part.system, tools=part.tools, task="demo", request_id=f"demo-{part.name}"
        )
        self.state.session_id = self.session.id
        for number, question in enumerate(part.questions):
            calls = await step(self.session, 3 * number, [user(question)], CALL_TOKENS, CALL)
            results = await self._use_tools(self.session, calls, evict=part.evict_after == number)
            await step(self.session, 3 * number + 1, results, TEXT_TOKENS, TEXT)
            if number + 1 < len(part.questions):
                await step(self.session, 3 * number + 2, [user(_MORE)], TEXT_TOKENS, TEXT)
        await self.session.close()

    async def _use_tools(self, session: Session, calls: tuple[ToolCall, ...], *, evict: bool) -> list[Message]:
        """Run the calls while the session is on hold."""
        if not calls:  # cut off before it was complete
            return [user("The call was incomplete. Go on without it.")]
        self.state.phase = Phase.TOOL
        seconds = sum(EXPECTED_SECONDS.get(call.name, 0.1) for call in calls)
        await session.hold(tool=calls[0].name, expect_seconds=seconds)
        if evict:
            self.evicted_tokens = await session.evict()
            self._scene.tell(f"{self.part.name} evicted its session ({self.evicted_tokens} tokens)")
        results = [tool_result(call, await asyncio.to_thread(self._answer, call)) for call in calls]
        await asyncio.sleep(seconds)
        return results

    def _answer(self, call: ToolCall) -> str:
        try:
            return self._toolbox.run(call.name, call.arguments)
        except ValueError as error:
            return f"error: {error}"
