"""Takes an agent's steps, and keeps the journal and the agent's visible state up to date."""

import time

from roost import (
    Committed,
    Delta,
    Format,
    Message,
    Restarted,
    Sampling,
    Session,
    Started,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from roost_operator.demo.journal import Journal, Receipt
from roost_operator.demo.scene import AgentState, Phase, Scene

STEP_SECONDS = 240.0


class Recorder:
    """Takes the steps of one agent."""

    def __init__(self, state: AgentState, sampling: Sampling, journal: Journal, scene: Scene) -> None:
        self._state = state
        self._sampling = sampling
        self._journal = journal
        self._scene = scene

    async def step(
        self, session: Session, number: int, messages: list[Message], max_tokens: int, form: Format | None = None
    ) -> tuple[ToolCall, ...]:
        """Run a step; the journal has it before it is sent and after it is committed. Raises RoostError."""
        state, step_id = self._state, f"{self._state.name}-{number}"
        self._journal.send(session.id, step_id)
        state.phase, state.step_tokens, state.text = Phase.WAITING, 0, ""
        step = session.step(
            messages,
            step_id=step_id,
            format=form,
            sampling=self._sampling,
            max_tokens=max_tokens,
            deadline=STEP_SECONDS,
        )
        begin, first, starts = time.monotonic(), 0.0, 0
        ids: list[int] = []
        async for event in step:
            if isinstance(event, Started):
                starts += 1
                state.worker = event.worker
            elif isinstance(event, Restarted):
                ids.clear()
                state.text = ""
                self._scene.tell(f"{state.name} restarted: {event.reason}")
            elif isinstance(event, Delta):
                first = first or time.monotonic()
                ids.extend(event.token_ids)
                state.phase, state.step_tokens = Phase.STREAMING, len(ids)
                state.text += event.text
            elif isinstance(event, Committed):
                waited = 1000 * ((first or time.monotonic()) - begin)
                constrained = isinstance(form, ToolChoice) and form.mode is ToolChoiceMode.REQUIRED
                self._receive(session, event, tuple(ids), waited, starts, constrained=constrained)
                return event.output.tool_calls
        raise AssertionError("a step's last event is Committed")

    def _receive(
        self, session: Session, event: Committed, ids: tuple[int, ...], ttft: float, starts: int, *, constrained: bool
    ) -> None:
        state = self._state
        receipt = Receipt.of(session.id, event, ids, state.text, starts, constrained=constrained, ttft_ms=ttft)
        died = ["a worker"] * bool(event.failovers) + ["a gateway"] * bool(receipt.failovers_gateway)
        if died:
            self._scene.tell(f"{state.name} went on after {' and '.join(died)} died")
        self._journal.receive(receipt)
        state.longest_wait = max(state.longest_wait, event.queue_ms / 1000)
        state.steps += 1
        state.phase, state.step_tokens = Phase.IDLE, 0
