"""Whose fault a failure is: that of the request, when it comes of what was done with the request's own content.

Every worker would do the same and fail alike, so the step is refused at the first one, whatever the exception.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost_worker.render.errors import RenderError
from roost_worker.server.refusals import invalid

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stage:
    """Work on a request's content. `failure` is what the client gets when it fails in a way that nobody expected.
    `field` is what failed of the request; empty when that is not one field."""

    failure: str
    field: str = ""
    reason: Reason = Reason.INVALID_REQUEST


RENDERING = Stage("the messages cannot be rendered", "messages")
SAMPLING = Stage("the sampling parameters cannot be used", "sampling")
SCHEMA = Stage("the format cannot be compiled", "format", Reason.INVALID_SCHEMA)
DECODING = Stage("the tokens of the output cannot be decoded")
PARSING = Stage("the text of the output cannot be read as a message")


@contextmanager
def of_request(stage: Stage) -> Iterator[None]:
    """Work of `stage`. Raise Refused, with the stage's reason, in place of an exception that is neither Refused nor a
    RenderError; the log gets its traceback."""
    try:
        yield
    except (Refused, RenderError):
        raise
    except Exception as error:
        LOG.exception("a step is refused: %s", stage.failure)
        raise invalid(f"{stage.failure}; the worker's log says why", field=stage.field, reason=stage.reason) from error
