"""CheckSession: whether steps could use a new session's system text and tools (docs/tools.md)."""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.v1 import worker_service_pb2 as pb
from roost_worker.grammar import CompileUnavailableError, GrammarError, build_tool_call
from roost_worker.grammar.tool_schema import ToolSchema, tool_schema
from roost_worker.render.errors import RenderError
from roost_worker.render.messages import Message
from roost_worker.server import refusals
from roost_worker.server.requests import INLINE_BYTES
from roost_worker.server.shell import Shell

LOG = logging.getLogger(__name__)
KEPT_CHECKS = 256
_SHORTEST = Message("user", ".")
"""A message of one token; templates may refuse an empty one."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """What a session's steps would use."""

    prompt_tokens: int
    schemas: tuple[ToolSchema, ...]
    grammars: tuple[str, ...]
    """Of a required call of each tool, in order."""
    together: str
    """The grammar of a required call of any tool; empty if there are not several."""


class SessionChecks:
    """Checks new sessions, and keeps the latest `KEPT_CHECKS` that passed: agents open many with the same tools."""

    def __init__(self) -> None:
        self._passed: OrderedDict[bytes, pb.CheckSessionResponse] = OrderedDict()
        # One thread: long texts of new sessions wait for each other, and never take the threads that render steps.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="session-check")

    async def check(self, shell: Shell, request: pb.CheckSessionRequest) -> pb.CheckSessionResponse:
        """Answer one call.

        Raise Refused: INVALID_SCHEMA naming tool, field and keyword, INVALID_REQUEST, STEP_TOO_LONG; QUEUE_TIMEOUT
        without a verdict on all tools in `wait_seconds`, WORKER_DRAINING, MODEL_REVISION_MISMATCH.
        """
        if shell.draining:
            raise refusals.draining()
        if request.model_revision not in ("", shell.identity.revision):
            raise refusals.wrong_revision(request.model_revision, shell.identity.revision)
        limit = min(shell.limit, request.limit_tokens or shell.limit)
        digest = _digest(request)
        if (passed := self._passed.get(digest)) is not None:
            self._passed.move_to_end(digest)
            _check_room(passed.prompt_tokens, limit)
            return passed
        if request.ByteSize() > INLINE_BYTES:
            draft = await asyncio.get_running_loop().run_in_executor(self._thread, _drafted, shell, request)
        else:
            draft = _drafted(shell, request)
        _check_room(draft.prompt_tokens, limit)
        await _compile(shell, request, draft)
        self._passed[digest] = response = _response(request, draft)
        if len(self._passed) > KEPT_CHECKS:
            self._passed.popitem(last=False)
        return response


def _digest(request: pb.CheckSessionRequest) -> bytes:
    """Return a hash of what the verdict depends on, besides the limit."""
    content = pb.CheckSessionRequest(system=request.system, tools=request.tools)
    return hashlib.blake2b(content.SerializeToString(deterministic=True), digest_size=16).digest()


def _drafted(shell: Shell, request: pb.CheckSessionRequest) -> _Draft:
    """Build each tool's grammar, and render what a first step would begin with."""
    schemas, grammars = list[ToolSchema](), list[str]()
    for index, tool in enumerate(request.tools):
        try:
            schemas.append(tool_schema(tool.name, tool.parameters_json))
            grammars.append(build_tool_call([tool], tool.name, shell.renderer.family))
        except GrammarError as error:
            raise _invalid_tool(index, str(error)) from error
    together = build_tool_call(request.tools, "", shell.renderer.family) if len(request.tools) > 1 else ""
    try:
        prompt = shell.renderer.render_step(system=request.system, tools=tuple(request.tools), messages=(_SHORTEST,))
    except RenderError as error:
        raise refusals.invalid(str(error), field="system" if request.system else "tools") from error
    return _Draft(len(prompt), tuple(schemas), tuple(grammars), together)


async def _compile(shell: Shell, request: pb.CheckSessionRequest, draft: _Draft) -> None:
    """Compile each tool's grammar, and then that of all tools together, which refuses nothing: steps in which the model
    decides, or that name the tool, can still use the session."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + shell.grammars.setup.limits.wait_seconds
    for index, grammar in enumerate(draft.grammars):
        try:
            await shell.grammars.check(grammar, max(0.0, deadline - loop.time()))
        except GrammarError as error:
            raise _invalid_tool(index, f"tool {request.tools[index].name!r}: parameters_json: {error}") from error
        except CompileUnavailableError as error:
            raise refusals.no_verdict(str(error)) from error
    if draft.together:
        try:
            await shell.grammars.check(draft.together, max(0.0, deadline - loop.time()))
        except (GrammarError, CompileUnavailableError) as error:
            LOG.warning("steps that require any of a session's %d tools: %s", len(request.tools), error)


def _response(request: pb.CheckSessionRequest, draft: _Draft) -> pb.CheckSessionResponse:
    response = pb.CheckSessionResponse(prompt_tokens=draft.prompt_tokens)
    for tool, schema in zip(request.tools, draft.schemas, strict=True):
        response.tools.add(name=tool.name, constrained=schema.constrained, keyword=schema.keyword)
    return response


def _check_room(prompt_tokens: int, limit: int) -> None:
    if prompt_tokens >= limit:
        raise refusals.session_too_long(prompt_tokens, limit)


def _invalid_tool(index: int, message: str) -> Refused:
    return refusals.invalid(message, field=f"tools[{index}].parameters_json", reason=Reason.INVALID_SCHEMA)
