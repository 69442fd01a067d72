"""Compares the prompts that sessions get with what the model's own template writes, when a model is loaded. Pure.

Conversations are rendered step by step, as sessions are, and as a whole by the model's own template, in a plain
sandbox. What stands between two prompts is the model's own answer, and is not compared: a log keeps what the model
wrote. So these differences are harmless, and are not reported:

- blanks at the ends of an answer, and the spelling and ids of its calls, as long as the format's parser reads the
  template's spelling as the same calls;
- the mark that opens thinking at the end of a prompt, which templates leave out of earlier turns: its thinking follows;
- system messages after others where a template refuses, drops or moves them: it has no form for them to differ from.

Every other difference is a limit, or, between turns of plain text, a reason to refuse the model.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import takewhile

from roost.contract.model_limits import ModelLimit
from roost_worker.render.choice import without_end
from roost_worker.render.errors import RenderError
from roost_worker.render.formats import Turn
from roost_worker.render.log import meanings
from roost_worker.render.messages import Message, Tool, ToolCall, template_message
from roost_worker.render.probing import text_of
from roost_worker.render.reference import Reference
from roost_worker.render.renderer import Renderer

_SHOWN = 80
_NOT_ENDED = (-1,)
"""A log whose last token does not end a turn: the next prompt closes it."""

_USER, _NEXT = Message("user", "probe-user"), Message("user", "probe-next")
_ANSWER = Message("assistant", "probe-answer")
_FIRST_CALL = ToolCall("callfirst", "probe_find", '{"query": "a \\"b\\" é", "limit": 3}')
_SECOND_CALL = ToolCall("callother", "probe_read", '{"path": "/tmp"}')
_CALL, _CALLS = (Message("assistant", "", calls) for calls in ((_FIRST_CALL,), (_FIRST_CALL, _SECOND_CALL)))
_RESULT = Message("tool", ' {"found": "é"}\n', tool_call_id="callfirst", name="probe_find")
_SECOND_RESULT = Message("tool", "probe-second", tool_call_id="callother", name="probe_read")
_THINKING = "probe-thinking"
_EDGES = ' \n"probe" \\ é 漢 😀 {} \n '
_CONTENTS = {
    ModelLimit.CONTENT_FILTERS: (_EDGES, f"{_EDGES}."),
    ModelLimit.MODE_SWITCHES: ("probe /no_think", "probe /think"),
}
"""User's messages of two steps, of which the first is the system text, too."""
_TOOLS = (
    Tool(
        "probe_find",
        'Find "é" \\ 漢.',
        json.dumps({
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "What to find."},
                "limit": {"type": ["integer", "null"], "default": 10},
                "kind": {"type": "string", "enum": ["file", "folder"]},
                "within": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["query"],
        }),
    ),
    Tool("probe_read", "Read a file.", json.dumps({"type": "object", "properties": {"path": {"type": "string"}}})),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit, and how it shows in this model."""

    kind: ModelLimit
    detail: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.kind.meaning} ({self.detail})"


@dataclass(frozen=True, slots=True)
class _Conversation:
    steps: tuple[tuple[Message, ...], ...]
    answers: tuple[Message, ...] = ()
    """The model's answers between the steps."""
    system: str = ""
    tools: tuple[Tool, ...] = field(default=())

    @property
    def messages(self) -> list[Message]:
        """All messages but the system's, in order."""
        turns = [*self.steps[0]]
        for answer, step in zip(self.answers, self.steps[1:], strict=True):
            turns += [answer, *step]
        return turns


_PLAIN = _Conversation(((_USER,), (_NEXT,)), (_ANSWER,))
_WITH_TOOLS = replace(_PLAIN, tools=_TOOLS)
_WITH_RESULT = _Conversation(((_USER,), (_RESULT,), (_NEXT,)), (_CALL, _ANSWER))
_WITH_RESULTS = _Conversation(((_USER,), (_RESULT, _SECOND_RESULT), (_NEXT,)), (_CALLS, _ANSWER))


def find_limits(renderer: Renderer) -> tuple[Limit, ...]:
    """Return the limits of the renderer's model, each kind once. Raise RenderError when plain turns differ."""
    return tuple(_Check(renderer).limits())


class _Check:
    """One model's comparison."""

    def __init__(self, renderer: Renderer) -> None:
        description = renderer.description
        bounds = (description.bos_token, description.eos_token)
        self._renderer = renderer
        self._own = Reference(description.chat_template, *bounds)
        self._own_for_tools = Reference(description.tool_chat_template or description.chat_template, *bounds)

    def limits(self) -> Iterator[Limit]:
        """Yield the limits, in the order in which a conversation meets them."""
        if self._renderer.own_template_refused:
            yield Limit(ModelLimit.BUILT_IN_FORMAT, self._renderer.own_template_refused)
        if self._renderer.tool_template_refused:
            yield Limit(ModelLimit.TOOL_TEMPLATE, self._renderer.tool_template_refused)
        if not self._own.writes(_PLAIN.messages):
            return  # there is nothing to compare with
        if turns := self._difference(_PLAIN, after_first=True):
            raise RenderError(f"this model's turns differ from its own chat template: {turns}")
        if system := self._first_that_differs(_PLAIN, "probe-system"):
            yield Limit(ModelLimit.SYSTEM_TEXT, system)
        yield from self._tool_limits(with_system=not system)
        if thinking := self._lost_thinking():
            yield Limit(ModelLimit.THINKING_KEPT, thinking)
        yield from self._content_limits(with_system=not system)

    def _tool_limits(self, *, with_system: bool) -> Iterator[Limit]:
        if not self._renderer.shows_tools():
            yield Limit(ModelLimit.TOOLS_IN_SYSTEM_TEXT, f"in the words of the format {self._renderer.format.name}")
        elif shown := self._first_that_differs(_WITH_TOOLS, "probe-system" if with_system else ""):
            yield Limit(ModelLimit.TOOLS, shown)
        if misread := self._misread(_CALL):
            yield Limit(ModelLimit.TOOL_CALLS, misread)
        # With tools, a template that moves them to the last message would differ here, too.
        tools = _TOOLS if self._renderer.description.tool_chat_template else ()
        if results := self._difference(replace(_WITH_RESULT, tools=tools), after_first=True):
            yield Limit(ModelLimit.TOOL_RESULTS, results)
        parallel = "" if results else self._difference(replace(_WITH_RESULTS, tools=tools), after_first=True)
        if parallel := parallel or ("" if misread else self._misread(_CALLS)):
            yield Limit(ModelLimit.PARALLEL_CALLS, parallel)

    def _content_limits(self, *, with_system: bool) -> Iterator[Limit]:
        for kind, texts in _CONTENTS.items():
            conversation = _Conversation(tuple((Message("user", text),) for text in texts), (_ANSWER,))
            if with_system:
                difference = self._first_that_differs(conversation, texts[0])
            else:
                difference = self._difference(conversation, after_first=True)
            if difference:
                yield Limit(kind, difference)

    def _first_that_differs(self, conversation: _Conversation, system: str) -> str:
        """Return how the conversation differs, or else how it does with a system text, if there is one."""
        return self._difference(conversation) or (system and self._difference(replace(conversation, system=system)))

    def _difference(self, conversation: _Conversation, *, after_first: bool = False) -> str:
        """Return how the session's prompts differ from the template's text, or an empty string.

        `after_first` leaves out the first prompt, in which system text and tools stand.
        """
        own = self._own_for_tools if conversation.tools else self._own
        head = [Message("system", conversation.system)] if conversation.system else []
        try:
            whole = own.write([*head, *conversation.messages], conversation.tools)
            prompts = self._prompts(conversation)
        except RenderError as error:
            return str(error)
        position = 0
        for number, prompt in enumerate(prompts):
            if after_first and not number:
                continue
            end = self._end_of(prompt, whole, position, is_first=not number, is_last=number == len(prompts) - 1)
            if end is None:
                return _first_difference(prompt, whole[position:], is_first=not number)
            position = end
        return ""

    def _prompts(self, conversation: _Conversation) -> list[str]:
        """Return the text that each step adds to the log. Raise RenderError."""
        system, tools = conversation.system, conversation.tools
        return [
            text_of(
                self._renderer.step_pieces(
                    messages=step, log_ids=_NOT_ENDED if number else (), system=system, tools=tools
                )
            )
            for number, step in enumerate(conversation.steps)
        ]

    def _end_of(self, prompt: str, whole: str, position: int, *, is_first: bool, is_last: bool) -> int | None:
        """Return where the prompt ends in the template's text, of which `position` is behind the last one, or None."""
        if is_last:
            return len(whole) if whole.endswith(prompt) and len(whole) - len(prompt) >= position else None
        for form in (prompt, self._before_thinking(prompt)):
            at = whole.find(form, position)
            if at == 0 or (at > 0 and not is_first):
                return at + len(form)
        return None

    def _before_thinking(self, prompt: str) -> str:
        """Return the prompt without the mark that opens thinking at its end, if there is one."""
        marks, text = self._renderer.format.thinking, prompt.rstrip()
        return text.removesuffix(marks.open) if marks is not None and text.endswith(marks.open) else prompt

    def _misread(self, answer: Message) -> str:
        """Return that the format's parser does not read the calls that the template writes; or an empty string."""
        known = self._renderer.format
        try:
            written = self._own_for_tools.write_answer(_USER, answer)
        except RenderError:
            return ""  # the comparison of results says so
        written = without_end(written, known, self._renderer.description.eos_token)
        read = known.parse(written, Turn({call.name for call in answer.tool_calls})).calls
        shown = any(call.name in written for call in answer.tool_calls)
        differs = shown and meanings(read) != meanings(answer.tool_calls)
        return f"{written!r:.{_SHOWN}} is read otherwise" if differs else ""

    def _lost_thinking(self) -> str:
        """Return that the template removes thinking, in whichever way it is given; or an empty string."""
        marks = self._renderer.format.thinking
        if marks is None:
            return ""
        thought = {**template_message(_ANSWER), "reasoning_content": _THINKING}
        written = {"role": "assistant", "content": f"{marks.open}\n{_THINKING}\n{marks.close}\n\n{_ANSWER.content}"}
        before, after = template_message(_USER), template_message(_NEXT)
        try:
            texts = [self._own.write_documents([before, answer, after]) for answer in (thought, written)]
        except RenderError as error:
            return str(error)
        return "" if any(_THINKING in text for text in texts) else "a user's message ends it"


def _first_difference(prompt: str, rest: str, *, is_first: bool) -> str:
    """Return a prompt and the template's text from where they differ, with a little of what is alike."""
    place = 0 if is_first else max(range(len(rest) + 1), key=lambda at: _alike(prompt, rest[at : at + len(prompt)]))
    start = max(0, _alike(prompt, rest[place:]) - _SHOWN // 4)
    here, there = prompt[start:][:_SHOWN], rest[place + start :][:_SHOWN]
    return f"here {here!r}, in the model's template {there!r}"


def _alike(left: str, right: str) -> int:
    """Return how many characters at the start are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
