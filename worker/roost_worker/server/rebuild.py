"""One Rebuild stream: a session's log comes, its KV is computed, nothing is generated."""

from collections.abc import Awaitable, Callable

import grpc.aio

from roost.contract.heads import Head
from roost.v1 import worker_service_pb2 as pb
from roost_worker.engine.messages import Pause
from roost_worker.server import refusals
from roost_worker.server.cache_keys import cache_root
from roost_worker.server.history import complete_log
from roost_worker.server.rebuilds import Rebuild
from roost_worker.server.sessions import LogRef
from roost_worker.server.shell import Shell

Context = grpc.aio.ServicerContext[pb.RebuildRequest, pb.RebuildResponse]


async def rebuild(shell: Shell, context: Context, publish: Callable[[], Awaitable[object]]) -> None:
    """Serve one stream. `publish` publishes residency, so that gateways know of the KV when the stream ends.

    Raise Refused with the reason that ends the call.
    """
    start = await _start(context)
    session = start.session.session_id
    _check(shell, start)
    with shell.rebuilds.running(session, _pause(start)) as running:
        log = await complete_log(
            shell.sessions, _log_ref(start), lambda need: _ask(context, need), lambda: _next_run(context, running)
        )
        running.check()
        shell.sessions.put(session, log)
        shell.rebuilds.submit(running, log, cache_root(shell.config.pool_secret, start.tenant), start.role)
        await running.wait()
        shell.evictions.forget(session)
        await publish()
        cached = running.cached_tokens
        rebuilt = pb.Rebuilt(cached_tokens=cached, prefilled_tokens=len(log.ids) - cached)
        await context.write(pb.RebuildResponse(rebuilt=rebuilt))


def _check(shell: Shell, start: pb.RebuildStart) -> None:
    """Raise Refused unless the session's log can be rebuilt here."""
    session, length = start.session.session_id, start.session.head.length
    if not session:
        raise refusals.invalid("a session must be named", field="start.session.session_id")
    if not length:
        raise refusals.invalid("an empty log has nothing to rebuild", field="start.session.head")
    if start.model_revision != shell.identity.revision:
        raise refusals.wrong_revision(start.model_revision, shell.identity.revision)
    if shell.draining or shell.leaving:
        raise refusals.draining()
    if length >= shell.limit:
        raise refusals.log_too_long(shell.limit)
    if shell.attempts.of_session(session) is not None or shell.sessions.is_stale(session, start.epoch):
        raise refusals.fenced()
    if start.HasField("pause") and not shell.has_nothing_to_do:
        raise refusals.not_idle()


def _pause(start: pb.RebuildStart) -> Pause | None:
    pause = start.pause
    if not start.HasField("pause"):
        return None
    return Pause(max(0.0, pause.seconds_ago), max(0.0, pause.expect_seconds), pause.tool)


def _log_ref(start: pb.RebuildStart) -> LogRef:
    session = start.session
    return LogRef(session.session_id, session.generation, Head(session.head.length, session.head.log_hash))


async def _start(context: Context) -> pb.RebuildStart:
    first = await context.read()
    if isinstance(first, pb.RebuildRequest) and first.WhichOneof("message") == "start":
        return first.start
    raise refusals.invalid("the first message must be RebuildStart", field="message")


async def _ask(context: Context, need: pb.NeedHistory) -> None:
    await context.write(pb.RebuildResponse(need_history=need))


async def _next_run(context: Context, running: Rebuild) -> pb.History:
    message = await context.read()
    running.check()
    if isinstance(message, pb.RebuildRequest) and message.WhichOneof("message") == "history":
        return message.history
    raise refusals.invalid("the answer to NeedHistory must be History", field="message")
