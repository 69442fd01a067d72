"""The error of rendering."""


class RenderError(ValueError):
    """A model's template cannot be used, or a step cannot be rendered. The message names the cause and the fix."""
