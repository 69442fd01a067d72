"""How the fake gateway folds a session's log."""

import secrets
from dataclasses import replace

from roost._fake_step import WORKER, Mishap, StepRunner
from roost.contract.events import Committed
from roost.contract.refused import invalid
from roost.contract.sessions import FoldRequest, ForkRequest
from roost.store.budgets import NO_BUDGETS
from roost.store.folding import fold_step, folded_log, steps_to_fold, summary_step
from roost.store.forks import fork_session
from roost.store.records import AlreadyCommitted, Descriptor


async def fold(runner: StepRunner, session: Descriptor, request: FoldRequest) -> None:
    """Folds a session's log, as a checked request asks. Raises Refused."""
    store, step = runner.store, fold_step(replace(request, request_id=request.request_id or secrets.token_hex(16)))
    limited = runner.begin_request(session, step)
    began = await store.begin(replace(limited, budget_tokens=0, max_steps=0, rules=NO_BUDGETS))
    if isinstance(began, AlreadyCommitted):
        return
    try:
        log = began.descriptor
        entries = await store.log(log.session_id, log.generation, 0, log.steps)
        folded = steps_to_fold(entries, request.keep_turns)
        summary = request.summary or await _summary(runner, session)
        renewed = folded_log(entries, folded, summary, step.step_id)
        await store.migrate(replace(await runner.rendered(began, renewed, summary), folded=folded))
        store.publish_cached(log.session_id, WORKER, 0)
    except BaseException:
        await store.abort(session.session_id, began.ref)
        raise


async def _summary(runner: StepRunner, session: Descriptor) -> str:
    """What the reply function answers in a fork of the session."""
    fork = await fork_session(runner.store, ForkRequest(session.session_id), session.tenant)
    summary = ""
    async for event in runner.run(fork, summary_step(fork.session_id), Mishap()):
        if isinstance(event, Committed):
            summary = event.output.content
    await runner.store.delete(fork.session_id, session.tenant)
    if not summary.strip():
        raise invalid([("summary", "the model wrote none; give one")])
    return summary
