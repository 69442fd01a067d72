"""A whole step, collected from its events."""

from dataclasses import dataclass

from roost.contract.budgets import BudgetStatus
from roost.contract.events import Committed, FinishReason, Migrated, TokenLogprobs, Usage
from roost.contract.messages import ToolCall
from roost.contract.repetition import Repetition
from roost.contract.why import Why


@dataclass(frozen=True, slots=True)
class StepResult:
    """A whole step, as `Session.run` and `Step.result` return it."""

    committed: Committed
    text: str
    """Everything the model wrote, with its thinking and its tool calls as it wrote them; `content` is the text without
    them."""
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each id, when asked for. They are not stored: a step that had been committed before the call has none,
    and one whose gateway dies after the commit lacks those that had not come."""
    migrated: Migrated | None = None
    """Set when the session was moved to another revision of the model before the step."""

    @property
    def content(self) -> str:
        """The message's text, without thinking and tool calls."""
        return self.committed.output.content

    @property
    def reasoning(self) -> str:
        """What the model wrote between its thinking marks."""
        return self.committed.reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return self.committed.output.tool_calls

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why text that looks like a tool call is not one."""
        return self.committed.warnings

    @property
    def budgets(self) -> tuple[BudgetStatus, ...]:
        """Budgets that are used up, or of which as much is used as the role warns at."""
        return self.committed.budgets

    @property
    def repetition(self) -> Repetition | None:
        """What the step's calls repeat, if the role notices that."""
        return self.committed.repetition

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.committed.finish_reason

    @property
    def usage(self) -> Usage:
        return self.committed.usage

    @property
    def why(self) -> Why | None:
        """Why the step waited, and why tokens were rebuilt; `why.line` says it in words. None for a step of an older
        gateway."""
        return self.committed.why

    @property
    def step_id(self) -> str:
        return self.committed.step_id
