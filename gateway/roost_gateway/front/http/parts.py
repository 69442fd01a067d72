"""What a step writes, as text, reasoning and calls, each piece once. Pure."""

from collections.abc import Iterator

from roost.contract.events import (
    ArgumentsPart,
    CallPart,
    Committed,
    Delta,
    Event,
    Part,
    ReasoningPart,
    TextPart,
)
from roost.contract.messages import ToolCall
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost_gateway.recognition.conversation import Match


class StepParts:
    """The parts of one step, from its deltas, and from its commit what no delta had.

    A call that breaks off fails a stream (`of`). Sent again, the request attaches to the step: then calls, and what
    follows them, wait for the commit, which says what they are.
    """

    def __init__(self, match: Match = Match.NEW) -> None:
        self._holds_calls = match is Match.ATTACHED
        self._is_holding = False
        self._text = ""
        self._reasoning = ""
        self._calls: list[CallPart] = []
        self._arguments: list[str] = []

    def of(self, event: Event) -> Iterator[Part]:
        """The parts that an event adds.

        Raises Refused, WORKER_FAILED, when a call that was returned earlier turns out to be text. An answer whose parts
        have been sent cannot be completed then.
        """
        match event:
            case Delta():
                for part in event.parts:
                    self._is_holding |= self._holds_calls and isinstance(part, CallPart)
                    if not self._is_holding:
                        self._note(part)
                        yield part
            case Committed():
                yield from self._rest(event)

    def _note(self, part: Part) -> None:
        match part:
            case TextPart():
                self._text += part.text
            case ReasoningPart():
                self._reasoning += part.text
            case CallPart():
                self._calls.append(part)
                self._arguments.append("")
            case ArgumentsPart():
                self._arguments[part.index] += part.text

    def _rest(self, committed: Committed) -> Iterator[Part]:
        calls = committed.output.tool_calls
        sent = [(call.id, call.name) for call in self._calls]
        if sent != [(call.id, call.name) for call in calls[: len(sent)]]:
            raise _void("a tool call broke off")
        if reasoning := _missing(self._reasoning, committed.reasoning):
            yield ReasoningPart(reasoning)
        if text := _missing(self._text, committed.output.content):
            yield TextPart(text)
        for index, call in enumerate(calls):
            yield from self._rest_of_call(index, call)

    def _rest_of_call(self, index: int, call: ToolCall) -> Iterator[Part]:
        if index >= len(self._calls):
            yield CallPart(index, call.id, call.name)
            yield ArgumentsPart(index, call.arguments_json)
        elif not call.arguments_json.startswith(self._arguments[index]):
            raise _void(f"the arguments of call {call.id} are others")
        elif rest := call.arguments_json[len(self._arguments[index]) :]:
            yield ArgumentsPart(index, rest)


def _missing(sent: str, whole: str) -> str:
    """The end of `whole` that was not sent; empty when the two differ, as in white space around calls."""
    return whole[len(sent) :] if whole.startswith(sent) else ""


def _void(why: str) -> Refused:
    message = f"the output sent so far is void ({why}); send the request again"
    return Refused(Reason.WORKER_FAILED, message, retry_seconds=0.0)
