"""CheckSession: whether steps could use a new session's system text and tools (docs/tools.md)."""

import hashlib
import logging
from array import array
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost_worker.grammar import CompileUnavailableError, GrammarError, ToolSchema, build_tool_call
from roost_worker.server import refusals
from roost_worker.server.grammar_check import Constraint, deadline_in, verdict
from roost_worker.server.shell import Shell
from roost_worker.server.stages import SCHEMA, of_request

LOG = logging.getLogger(__name__)
KEPT_CHECKS = 256
_SHORTEST = api.Message(role=api.MESSAGE_ROLE_USER, content=".")
"""A message of one token; templates may refuse an empty one."""


@dataclass(frozen=True, slots=True)
class _Grammars:
    """What required calls of a session's tools are constrained by."""

    schemas: tuple[ToolSchema, ...]
    tools: tuple[str, ...]
    """The grammar of a call of each tool, in order."""
    together: str
    """The grammar of a call of any tool; empty if there are not several."""


class SessionChecks:
    """Checks new sessions, and keeps the latest `KEPT_CHECKS` that passed: agents open many with the same tools."""

    def __init__(self) -> None:
        self._passed: OrderedDict[bytes, pb.CheckSessionResponse] = OrderedDict()

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
        seconds_left = deadline_in(shell.grammars)
        with of_request(SCHEMA):
            grammars = await _built(shell, request, seconds_left)
        prompt_tokens = await _prompt_tokens(shell, request, limit)
        _check_room(prompt_tokens, limit)
        await _compile(shell, request, grammars, seconds_left)
        self._passed[digest] = response = _response(request, prompt_tokens, grammars)
        if len(self._passed) > KEPT_CHECKS:
            self._passed.popitem(last=False)
        return response


def _digest(request: pb.CheckSessionRequest) -> bytes:
    """Return a hash of what the verdict depends on, besides the limit."""
    content = pb.CheckSessionRequest(system=request.system, tools=request.tools, date=request.date)
    return hashlib.blake2b(content.SerializeToString(deterministic=True), digest_size=16).digest()


async def _built(shell: Shell, request: pb.CheckSessionRequest, seconds_left: Callable[[], float]) -> _Grammars:
    """Build the tools' grammars. Raise Refused: INVALID_SCHEMA, QUEUE_TIMEOUT."""
    wrapper = shell.renderer.call_wrapper
    schemas, tools = dict[tuple[str, str], ToolSchema](), list[str]()
    schema_of = Constraint(schemas=schemas).schema_of
    for index, tool in enumerate(request.tools):
        with verdict(partial(_invalid_tool, index)):
            schema = await shell.grammars.tool_schema(tool.name, tool.parameters_json, seconds_left())
            schemas[tool.name, tool.parameters_json] = schema
            tools.append(build_tool_call([tool], tool.name, wrapper, schema_of))
    together = build_tool_call(request.tools, "", wrapper, schema_of) if len(tools) > 1 else ""
    return _Grammars(
        tuple(schema_of(tool.name, tool.parameters_json) for tool in request.tools), tuple(tools), together
    )


async def _prompt_tokens(shell: Shell, request: pb.CheckSessionRequest, limit: int) -> int:
    """Return the tokens of the shortest first prompt. Raise Refused: INVALID_REQUEST, STEP_TOO_LONG."""
    first = pb.Start(system=request.system, tools=request.tools, date=request.date, messages=[_SHORTEST])
    try:
        return len(await shell.prompts.prompt(first, array("I"), limit, lambda: None))
    except Refused as refused:
        if refused.reason is Reason.STEP_TOO_LONG:
            raise refusals.session_too_long(int(refused.metadata["prompt_tokens"]), limit, at_least=True) from refused
        raise refusals.invalid(refused.message, field="system" if request.system else "tools") from refused


async def _compile(
    shell: Shell, request: pb.CheckSessionRequest, grammars: _Grammars, seconds_left: Callable[[], float]
) -> None:
    """Compile each tool's grammar, and then that of all tools together, which refuses nothing: steps in which the model
    decides, or that name the tool, can still use the session."""
    for index, grammar in enumerate(grammars.tools):
        source = f"tool {request.tools[index].name!r}: parameters_json: "
        with verdict(partial(_invalid_tool, index, source=source)):
            await shell.grammars.check(grammar, seconds_left())
    if grammars.together:
        try:
            await shell.grammars.check(grammars.together, seconds_left())
        except (GrammarError, CompileUnavailableError) as error:
            LOG.warning("steps that require any of a session's %d tools: %s", len(request.tools), error)


def _response(request: pb.CheckSessionRequest, prompt_tokens: int, grammars: _Grammars) -> pb.CheckSessionResponse:
    response = pb.CheckSessionResponse(prompt_tokens=prompt_tokens)
    for tool, schema in zip(request.tools, grammars.schemas, strict=True):
        response.tools.add(name=tool.name, constrained=schema.constrained, keyword=schema.keyword)
    return response


def _check_room(prompt_tokens: int, limit: int) -> None:
    if prompt_tokens >= limit:
        raise refusals.session_too_long(prompt_tokens, limit)


def _invalid_tool(index: int, why: str, *, source: str = "") -> Refused:
    return refusals.invalid(source + why, field=f"tools[{index}].parameters_json", reason=Reason.INVALID_SCHEMA)
