"""What goes wrong between text and token ids."""


class RenderError(ValueError):
    """A model's template cannot be used, or a step cannot be rendered. The message names the fault and the fix."""
