"""Limits of a model: where a session's prompts differ from what the model's own chat template writes. Pure.

Workers find them when they load a model and publish their names in the lease; `roost model show` and the pool's
condition `ModelLimited` say what they mean.
"""

from enum import StrEnum


class ModelLimit(StrEnum):
    """A limit by its name, which stays the same in all versions."""

    meaning: str
    """What it means for sessions, as part of a sentence."""

    def __new__(cls, value: str, meaning: str) -> "ModelLimit":
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    BUILT_IN_FORMAT = (
        "built-in-format",
        "turns are written by a built-in format, since the model's own chat template cannot be used",
    )
    TOOL_TEMPLATE = (
        "tool-template",
        "sessions with tools do not use the model's own template for them, since it cannot be used",
    )
    SYSTEM_TEXT = (
        "system-text",
        "system text is written elsewhere, or otherwise, than in the model's template",
    )
    TOOLS_IN_SYSTEM_TEXT = (
        "tools-in-system-text",
        "the model's template shows no tools, so that the system text describes them",
    )
    TOOLS = "tools", "tools are written elsewhere, or otherwise, than in the model's template"
    TOOL_CALLS = "tool-calls", "calls as the model's template writes them are not recognised as calls"
    TOOL_RESULTS = "tool-results", "results of tools are written otherwise than in the model's template"
    PARALLEL_CALLS = "parallel-calls", "several calls in one answer are not written as in the model's template"
    THINKING_KEPT = (
        "thinking-kept",
        "the thinking of earlier turns stays, where the model's template removes it",
    )
    CONTENT_FILTERS = "content-filters", "the model's template edits messages in a way that is not followed"
    MODE_SWITCHES = "mode-switches", "switches in messages, such as /no_think, do not have their full effect"


def describe(name: str) -> str:
    """Return a limit's name and what it means; of one that only another version knows, the name alone."""
    return next((f"{name}: {limit.meaning}" for limit in ModelLimit if limit.value == name), name)
