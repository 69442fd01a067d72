"""CountTokens: how long a prompt is, before anybody takes a step with it."""

import sys
from array import array

from roost.v1 import worker_service_pb2 as pb
from roost_worker.server import refusals
from roost_worker.server.shell import Shell


async def count_tokens(shell: Shell, request: pb.CountTokensRequest) -> pb.CountTokensResponse:
    """Answer one call. Raise Refused: INVALID_REQUEST, WORKER_DRAINING, MODEL_REVISION_MISMATCH."""
    if shell.draining:
        raise refusals.draining()
    if request.model_revision not in ("", shell.identity.revision):
        raise refusals.wrong_revision(request.model_revision, shell.identity.revision)
    first = pb.Start(system=request.system, tools=request.tools, messages=request.messages, date=request.date)
    prompt = await shell.prompts.prompt(first, array("I"), sys.maxsize, lambda: None)
    return pb.CountTokensResponse(tokens=len(prompt))
