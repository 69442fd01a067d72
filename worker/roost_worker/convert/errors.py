"""The error of preparing a model."""


class ConvertError(Exception):
    """A model cannot be prepared. The message names the source, the cause and the fix."""
