"""What rendering makes of a conversation, before it is turned into tokens. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of rendered text: content, or, if `content` is false, the template's own."""

    text: str
    content: bool
