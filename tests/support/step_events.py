"""The events of a step, for tests of what APIs make of them."""

from roost.contract.events import Committed, Delta, FinishReason, Part, Started, Usage
from roost.contract.heads import Head
from roost.contract.messages import Message, MessageRole, ToolCall
from roost_gateway.recognition.conversation import Match, Recognised

RECOGNISED = Recognised("default/pool/01hzzzzzzzzzzzzzzzzzzzzzzz", "step", Match.CONTINUED, log_tokens=100)
STARTED = Started("w", prompt_tokens=20, cached_tokens=90)
CALL, OTHER_CALL = ToolCall("c1", "read", '{"path": "a"}'), ToolCall("c2", "list", "{}")


def delta(*parts: Part) -> Delta:
    """A delta of which only the parts matter."""
    return Delta("", (), 0, 0, parts=parts)


def committed(
    content: str = "", *calls: ToolCall, reasoning: str = "", finish: FinishReason | None = FinishReason.STOP
) -> Committed:
    """The end of a step whose context has 120 tokens, 90 of them cached, and whose output has 7."""
    return Committed(
        step_id=RECOGNISED.step_id,
        output=Message(MessageRole.ASSISTANT, content, calls),
        finish_reason=FinishReason.TOOL_CALLS if calls else finish,
        usage=Usage(prompt_tokens=20, output_tokens=7, cached_tokens=90, reconstructed_tokens=10),
        head=Head(127),
        index=1,
        queue_ms=0,
        first_token_ms=0,
        seed=1,
        replayed=False,
        output_tokens=7,
        failovers=0,
        reasoning=reasoning,
    )
