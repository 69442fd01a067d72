"""A whole step, collected from its events."""

from dataclasses import dataclass

from roost.contract.events import Committed, FinishReason, Migrated, TokenLogprobs, Usage
from roost.contract.messages import ToolCall


@dataclass(frozen=True, slots=True)
class StepResult:
    """A whole step, as `Session.run` and `Step.result` collect it."""

    committed: Committed
    text: str
    """Everything the model wrote, with tool calls as it wrote them; `content` is the text without them."""
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each id, when asked for; empty for a step that had been committed before."""
    migrated: Migrated | None = None
    """What the session went through before the step, if the pool's model has changed."""

    @property
    def content(self) -> str:
        """The message's text, without tool calls."""
        return self.committed.output.content

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return self.committed.output.tool_calls

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.committed.finish_reason

    @property
    def usage(self) -> Usage:
        return self.committed.usage

    @property
    def step_id(self) -> str:
        return self.committed.step_id
