"""What goes wrong on the way into the model store."""


class ConvertError(Exception):
    """A model cannot be prepared. The message names the source, the fault and what to do about it."""
