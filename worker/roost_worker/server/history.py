"""How a worker gets the ids of a log that it lacks: it asks the gateway, which sends them in runs."""

from collections.abc import Awaitable, Callable

from roost.contract.loghash import unpack_ids
from roost.v1 import worker_service_pb2 as pb
from roost_worker.server import refusals
from roost_worker.server.session_log import HistoryError, MissingHistory, SessionLog, empty_log
from roost_worker.server.sessions import LogRef, SessionTable

NextRun = Callable[[], Awaitable[pb.History]]


async def complete_log(
    sessions: SessionTable, ref: LogRef, ask: Callable[[pb.NeedHistory], Awaitable[None]], next_run: NextRun
) -> SessionLog:
    """Return the log at `ref.head`: the ids that `sessions` lacks are asked for with `ask`, and read by `next_run`.

    Raise Refused: HEAD_MISMATCH when the ids do not hash to the head, INVALID_REQUEST when they cannot be read; and
    what the two raise.
    """
    log = sessions.find(ref)
    while isinstance(log, MissingHistory):
        await ask(pb.NeedHistory(from_token=log.from_token))
        log = await _receive(log, next_run) or MissingHistory(empty_log(ref.generation), ref.head)
    return log


async def _receive(missing: MissingHistory, next_run: NextRun) -> SessionLog | None:
    try:
        while True:
            run = await next_run()
            missing.add(run.offset, unpack_ids(run.token_ids), run.step_ends)
            if run.last:
                return missing.joined()
    except HistoryError as error:
        raise refusals.head_mismatch(str(error)) from error
    except ValueError as error:
        raise refusals.invalid(f"history: {error}", field="history.token_ids") from error
