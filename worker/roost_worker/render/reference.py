"""What a model's own chat template writes for a whole conversation, as transformers has it: nothing is hidden from it.

For comparisons only: content can become control tokens here.
"""

import json
from collections.abc import Sequence
from typing import Any

import jinja2

from roost_worker.render.dates import UNDATED
from roost_worker.render.errors import RenderError
from roost_worker.render.messages import Message, Tool, template_message, template_tools
from roost_worker.render.sandbox import chat_environment


class Reference:
    """A chat template in a plain sandbox. One that is not valid Jinja refuses every conversation."""

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        self._special = {"bos_token": bos_token, "eos_token": eos_token}
        environment = chat_environment()
        environment.filters["tojson"] = _tojson
        environment.globals["strftime_now"] = UNDATED.strftime
        try:
            self._template: jinja2.Template | None = environment.from_string(source)
        except jinja2.TemplateError:
            self._template = None

    def writes(self, messages: Sequence[Message]) -> bool:
        """Return whether there is a template, and it does not refuse the conversation."""
        try:
            return bool(self.write(messages))
        except RenderError:
            return False

    def write(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """Return the text of the conversation, up to where the answer begins. Raise RenderError if it is refused."""
        return self.write_documents([template_message(message) for message in messages], template_tools(tools))

    def write_answer(self, before: Message, answer: Message) -> str:
        """Return the text of an answer, from the end of the prompt on. Raise RenderError if it is refused."""
        asked, answered = template_message(before), template_message(answer)
        whole = self.write_documents([asked, answered], generation_prompt=False)
        # A prompt may begin the answer within something that the answer does without.
        starts = [self.write_documents([asked], generation_prompt=opened) for opened in (True, False)]
        return next((whole.removeprefix(start) for start in starts if whole.startswith(start)), whole)

    def write_documents(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        *,
        generation_prompt: bool = True,
    ) -> str:
        """Return the text of the conversation, whose messages are as templates expect them. Raise RenderError."""
        if self._template is None:
            raise RenderError("the model's template is not valid Jinja")
        try:
            return self._template.render(
                messages=messages, tools=tools, add_generation_prompt=generation_prompt, **self._special
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise RenderError(f"the model's template refuses it: {error}") from error


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
