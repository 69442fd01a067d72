"""What the fake gateway does when its model changes: sessions get a new log, or are refused. Pure."""

from roost._fake_output import render
from roost._fake_sessions import FakeSession
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.v1 import session_service_pb2 as pb


def to_revision(
    session: FakeSession, revision: str, *, migrates: bool, known: pb.Head | None
) -> pb.StepResponse | None:
    """Brings a session to the gateway's revision before a step, and tells a client that knows an older head of it.

    Raises Refused when sessions do not migrate.
    """
    before = session.record.model_revision
    if not session.log:
        session.record.model_revision = revision  # an empty log is of no revision
    if before != revision and session.log:
        if not migrates:
            raise Refused(Reason.MODEL_REVISION_MISMATCH, f"the session was begun on revision {before}")
        _migrate(session, revision)
        return _told(session)
    return _told(session) if known is not None and session.is_former(known) else None


def _migrate(session: FakeSession, revision: str) -> None:
    """The same steps, rendered as another revision does."""
    entries, session.log = session.log, []
    session.older.append((session.record.model_revision, entries))
    session.record.model_revision, session.cached = revision, 0
    session.record.generation += 1
    for entry in entries:
        anew = pb.CommittedStep()
        anew.CopyFrom(entry)
        prompt = render(session.system, session.tools, entry.messages, first=not session.log, revision=revision)
        session.follow(anew, prompt, bytes(entry.output_token_ids))
        anew.usage.CopyFrom(pb.Usage(prompt_tokens=len(prompt), output_tokens=len(entry.output_token_ids)))
        session.log.append(anew)


def _told(session: FakeSession) -> pb.StepResponse:
    return pb.StepResponse(
        migrated=pb.StepMigrated(
            from_revision=session.older[-1][0],
            to_revision=session.record.model_revision,
            generation=session.record.generation,
            head=session.head,
        )
    )
