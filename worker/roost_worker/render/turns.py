"""The template that writes a model's turns: its own, if that is prefix-stable, or its format's. Pure."""

from dataclasses import dataclass, replace
from datetime import date

from roost_worker.render.description import TemplateDescription
from roost_worker.render.errors import RenderError
from roost_worker.render.formats import TurnFormat
from roost_worker.render.formats.call_syntax import jinja_text
from roost_worker.render.messages import Message, template_message
from roost_worker.render.pieces import Piece
from roost_worker.render.probing import Behaviour, after, probe, render_delta, text_of
from roost_worker.render.sandbox import ChatTemplate
from roost_worker.render.vocabulary import Vocabulary

_PROBE = [template_message(Message("system", "probe-system")), template_message(Message("user", "probe-user"))]


@dataclass(frozen=True, slots=True)
class Turns:
    """A usable template and what it does."""

    template: ChatTemplate
    behaviour: Behaviour
    built_in: bool
    """Whether it is the format's."""
    end_ids: frozenset[int]
    """Control tokens after which a turn is not closed again."""
    own_refused: str
    """Why the model's own template is not used; empty when it is."""
    opens_thinking: frozenset[str]
    """Roles after whose messages the prompt ends within the model's thinking."""

    def on(self, day: date) -> "Turns":
        """Return the turns of sessions of another date."""
        return replace(self, template=self.template.on(day))

    def role_of(self, message: Message) -> str:
        """Return the role by which a message after others is shown."""
        return "user" if message.role == "system" and not self.behaviour.system_anywhere else message.role

    def closer(self, last_id: int) -> list[Piece]:
        """Return what closes a turn whose last token is `last_id`: all, or what follows the token that ended it."""
        whole = list(self.behaviour.closer)
        if last_id not in self.end_ids:
            return whole
        token = self.behaviour.end_token
        return after(whole, text_of(whole).index(token) + len(token))


def choose_turns(description: TemplateDescription, source: str, known: TurnFormat, vocabulary: Vocabulary) -> Turns:
    """Return the turns of the model's own template, whose text is `source`, or those of its format.

    Raise RenderError with all reasons when neither can be used.
    """
    ends = [text for text, index in vocabulary.control.items() if index in set(description.eos_token_ids)]
    reasons: list[str] = []
    for built_in in (False, True):
        try:
            template = _built_in(description, source, known, vocabulary) if built_in else _own(description, source)
            behaviour = probe(template, ends)
        except RenderError as error:
            reasons.append(str(error))
        else:
            end_ids = {
                vocabulary.control[token]
                for token in (behaviour.end_token, *known.turn_ends)
                if token in vocabulary.control
            }
            opens_thinking = _roles_that_open_thinking(template, behaviour, known)
            return Turns(template, behaviour, built_in, frozenset(end_ids), "; ".join(reasons), opens_thinking)
    raise RenderError(
        f"this model's turns cannot be rendered: its own chat template: {reasons[0]}; "
        f"the built-in turn format ({known.name}): {reasons[1]}"
    )


def _own(description: TemplateDescription, source: str) -> ChatTemplate:
    if not source:
        raise RenderError("the model has no chat template")
    return ChatTemplate(source, description.bos_token, description.eos_token)


def _built_in(description: TemplateDescription, source: str, known: TurnFormat, vocabulary: Vocabulary) -> ChatTemplate:
    """Return the format's template, with what the model's own one writes before and after a conversation.

    Raise RenderError when it would write turns in another way than the model's own template.
    """
    if not known.turns:
        raise RenderError("it has no turns of its own")
    if missing := [token for token in known.tokens if token not in vocabulary.control]:
        raise RenderError(f"the tokenizer lacks {', '.join(missing)}")
    template = ChatTemplate(known.turns, description.bos_token, description.eos_token)
    written = text_of(template.render(_PROBE, None, generation_prompt=True))
    try:
        own = text_of(_own(description, source).render(_PROBE, None, generation_prompt=True))
    except RenderError:
        return template
    start, common, opener = own.partition(written)
    if not common or start not in ("", description.bos_token):
        raise RenderError(f"it writes {written!r} where the model's own template writes {own!r}")
    changed = f"{jinja_text(start)}{known.turns}{{% if add_generation_prompt %}}{jinja_text(opener)}{{% endif %}}"
    return ChatTemplate(changed, description.bos_token, description.eos_token)


def _roles_that_open_thinking(template: ChatTemplate, behaviour: Behaviour, known: TurnFormat) -> frozenset[str]:
    if known.thinking is None:
        return frozenset()
    mark = known.thinking.open
    probes = [Message("user", "probe"), Message("tool", "probe", tool_call_id="callprobe", name="probe_call")]
    if behaviour.system_anywhere:
        probes.append(Message("system", "probe"))
    prompts = {probe.role: text_of(render_delta(template, [probe])) for probe in probes}
    return frozenset(role for role, prompt in prompts.items() if prompt.rstrip().endswith(mark))
