"""Render: a log rendered again, for another model or without thinking (docs/contracts.md, "A changed model")."""

import asyncio

from roost.contract.lease import counted_bytes, fewest_tokens
from roost.contract.loghash import pack_ids
from roost.fault_points import fault_point
from roost.v1 import worker_service_pb2 as pb
from roost_worker.render.dates import day_of
from roost_worker.render.errors import RenderError
from roost_worker.render.log import LogRenderer
from roost_worker.server import refusals
from roost_worker.server.requests import INLINE_BYTES
from roost_worker.server.shell import Shell


async def render(shell: Shell, request: pb.RenderRequest) -> pb.RenderResponse:
    """Answer one call. Raise Refused with the reason that ends it."""
    if shell.draining:
        raise refusals.draining()
    if request.model_revision != shell.identity.revision:
        raise refusals.wrong_revision(request.model_revision, shell.identity.revision)
    large = request.ByteSize() > INLINE_BYTES
    return await asyncio.to_thread(_render, shell, request) if large else _render(shell, request)


def _render(shell: Shell, request: pb.RenderRequest) -> pb.RenderResponse:
    try:
        day = day_of(request.date)
    except RenderError as error:
        raise refusals.cannot_render(str(error)) from error
    log = LogRenderer(
        shell.renderer,
        request.system,
        tuple(request.tools),
        day=day,
        steps=request.steps_before,
        length=request.tokens_before,
        last_id=request.last_token_id if request.HasField("last_token_id") else None,
    )
    response = pb.RenderResponse()
    most = shell.renderer.vocabulary.max_bytes_per_token
    for step in request.steps:
        size = counted_bytes(message.content for message in step.messages)
        if log.length + fewest_tokens(size, most) >= shell.limit:
            raise refusals.log_too_long(shell.limit)
        try:
            prompt, output = log.step(
                tuple(step.messages), step.output, step.text, without_thinking=step.without_thinking
            )
        except RenderError as error:
            raise refusals.cannot_render(str(error)) from error
        if log.length >= shell.limit:
            raise refusals.log_too_long(shell.limit)
        response.steps.add(prompt_token_ids=pack_ids(prompt), output_token_ids=pack_ids(output))
        fault_point("worker.render.step")
    return response
