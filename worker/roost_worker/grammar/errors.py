"""What the grammar package raises."""


class GrammarError(ValueError):
    """A schema or grammar is refused, or output does not match its grammar. The message says why."""
