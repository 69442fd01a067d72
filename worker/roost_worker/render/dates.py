"""The date that templates write: their session's, so that a log is rendered alike on any day. Pure."""

from datetime import date

from roost_worker.render.errors import RenderError

UNDATED = date(2024, 7, 26)
"""For gateways of before, which send no date: what Llama's templates write where there is no `strftime_now`."""


def day_of(text: str) -> date:
    """Return the day of a session's date, such as `2026-11-30`; `UNDATED` if it is empty. Raise RenderError."""
    try:
        return date.fromisoformat(text) if text else UNDATED
    except ValueError as error:
        raise RenderError(f"the session's date {text!r} is not a day, such as 2026-11-30") from error
