"""Writes a turn's parts as soon as they are certain. Pure."""

from roost.contract.events import ArgumentsPart, CallPart, Part, ReasoningPart, TextPart


class PartWriter:
    """Takes text, reasoning and calls in order, and appends them to `parts`.

    Blanks are held back until something visible follows: at the end of reasoning and of text beside calls they are
    dropped. `content` and `reasoning_text` are those parts joined.
    """

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.strips_start = False
        """Whether blanks before the first visible text are dropped: after thinking, and after a call."""
        self.calls = 0
        """How many calls have begun."""
        self._text, self._reasoning = _Run(), _Run()

    @property
    def content(self) -> str:
        return "".join(self._text.written)

    @property
    def has_text(self) -> bool:
        """Whether any text is written yet."""
        return bool(self._text.written)

    @property
    def reasoning_text(self) -> str:
        return "".join(self._reasoning.written)

    def text(self, text: str) -> None:
        if written := self._text.add(text, strips_start=self.strips_start):
            self.parts.append(TextPart(written))

    def reasoning(self, text: str) -> None:
        if written := self._reasoning.add(text, strips_start=True):
            self.parts.append(ReasoningPart(written))

    def begin_call(self, name: str, call_id: str) -> None:
        """Begin a call. `call_id` is what the model wrote as its id, empty for nothing."""
        self.parts.append(CallPart(self.calls, call_id, name))
        self.calls += 1

    def arguments(self, text: str) -> None:
        """Go on with the arguments of the call that was begun last."""
        self.parts.append(ArgumentsPart(self.calls - 1, text))

    def drop_blanks(self) -> None:
        """Drop the blanks at the end of the text so far."""
        self._text.blanks.clear()

    def end(self, *, strips_end: bool) -> None:
        """End the turn: write the blanks at the end of the text, or drop them."""
        if self._text.blanks and not strips_end:
            self.parts.append(TextPart(self._text.flush()))


class _Run:
    """Text that is held back where it ends in blanks."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.blanks: list[str] = []

    def add(self, text: str, *, strips_start: bool) -> str:
        """Return what is to be written now."""
        visible = text.rstrip()
        if not visible:
            if text:
                self.blanks.append(text)
            return ""
        blanks = text[len(visible) :]
        if strips_start and not self.written:
            visible = visible.lstrip()
        else:
            visible = "".join((*self.blanks, visible))
        self.written.append(visible)
        self.blanks = [blanks] if blanks else []
        return visible

    def flush(self) -> str:
        rest = "".join(self.blanks)
        self.written.append(rest)
        self.blanks = []
        return rest
