"""A log on its way to another revision: cut into requests, and put together again."""

from dataclasses import replace
from typing import Any

import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leases import lease_of
from null_script import rendered
from roost.contract.heads import Head
from roost.contract.loghash import extend, pack_ids
from roost.contract.messages import Message, MessageRole
from roost.contract.pool_document import PoolDocument
from roost.contract.steps import StepRequest
from roost.store.records import LogEntry
from roost.store.rules import check_migration
from roost.v1 import worker_service_pb2 as wpb
from roost.v1.worker_service_pb2_grpc import WorkerServiceServicer, add_WorkerServiceServicer_to_server
from roost_gateway.fleet.worker_client import WorkerClients
from roost_gateway.routing.choice import WorkerState
from roost_gateway.step import worker_requests
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.migration import migrate_request
from roost_gateway.step.output import RenderedStep
from roost_gateway.step.rewriting import Rewriting, rewriting
from roost_gateway.step.worker_requests import pieces, render_request
from roost_gateway.step.worker_stream import render
from step_attempts import attempt_of, descriptor_of

SESSION = descriptor_of(
    "a/b/0",
    system="Be kind.",
    tools=({"name": "grep", "description": "d", "parameters": "{}"},),
    head=Head(7, b"h" * 16),
    model_revision="old",
    date="2026-11-30",
)
POOL = PoolDocument.from_json("a/b", {"activeRevision": "new", "sessions": {"idleTTLSeconds": 0.077}})


def migrating() -> StepAttempt:
    """An attempt at a step before which its session migrates."""
    attempt = attempt_of(POOL, SESSION)
    attempt.migrates_to(POOL)
    return attempt


def entry(number: int, text: str = "so") -> LogEntry:
    return LogEntry(
        step_id=f"s{number}",
        index=number,
        messages=({"role": "user", "content": f"question {number}"},),
        output={"role": "assistant", "content": text, "tool_calls": [], "text": text},
        finish_reason="FINISH_REASON_STOP",
        prompt_tokens=5,
        output_tokens=2,
        cached_tokens=4,
        reconstructed_tokens=1,
        head=Head(7 * (number + 1), bytes([number]) * 16),
        seed=9,
        sampling={},
        format=None,
        model_revision="old",
        worker_id="w",
        commit_ms=1000 + number,
    )


@given(sizes=st.lists(st.integers(0, 300), max_size=12))
def test_every_step_is_asked_for_once_in_order_and_in_bounded_pieces(sizes: list[int]) -> None:
    entries = [entry(number, "x" * size) for number, size in enumerate(sizes)]
    before, worker_requests.PIECE_BYTES = worker_requests.PIECE_BYTES, 400
    try:
        cut = list(pieces(entries, Rewriting()))
    finally:
        worker_requests.PIECE_BYTES = before
    assert [step.text for piece in cut for step in piece] == ["x" * size for size in sizes]
    for piece, following in zip(cut, [*cut[1:], None], strict=False):
        size = sum(step.ByteSize() for step in piece)
        assert size <= 400 or len(piece) == 1
        assert following is None or size + following[0].ByteSize() > 400, "it would have fitted"


async def test_a_piece_says_what_was_rendered_before_it() -> None:
    tokens = [RenderedStep(prompt_ids=pack_ids([1, 2]), output_ids=pack_ids([3]))] * 2
    (piece,) = pieces([entry(2)], Rewriting())
    request = render_request(migrating(), piece, tokens, Rewriting())
    assert (request.model_revision, request.system, request.tools[0].name) == ("new", "Be kind.", "grep")
    assert request.date == "2026-11-30"
    assert (request.steps_before, request.tokens_before) == (2, 6)
    assert [message.content for message in request.steps[0].messages] == ["question 2"]


class Forgotten(WorkerServiceServicer):
    """A worker whose channel the gateway gives up while it renders, as when a stream of another step breaks there."""

    def __init__(self) -> None:
        self.clients = WorkerClients({})
        self.address = ""

    async def Render(self, request: Any, context: Any) -> wpb.RenderResponse:  # noqa: N802
        self.clients.forget(self.clients.channel(self.address))
        return rendered(request, short=False)


async def test_a_log_is_rendered_to_its_end_although_the_channel_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_requests, "PIECE_BYTES", 1)
    server, worker = grpc.aio.server(), Forgotten()
    add_WorkerServiceServicer_to_server(worker, server)
    worker.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    home = WorkerState(lease_of("w", address=worker.address))
    steps = await render(migrating(), [entry(number) for number in range(3)], Rewriting(), home, worker.clients)
    assert len(steps) == 3
    await worker.clients.aclose()
    await server.stop(0)


async def test_the_new_log_has_the_old_steps_in_new_tokens() -> None:
    tokens = [
        RenderedStep(prompt_ids=pack_ids([1, 2]), output_ids=pack_ids([3])),
        RenderedStep(prompt_ids=pack_ids([4]), output_ids=b""),
    ]
    attempt = migrating()
    request = migrate_request(attempt, [entry(0), entry(1)], tokens, Rewriting())
    assert request.packed_ids == pack_ids([1, 2, 3, 4])
    assert (request.previous, request.ref, request.model_revision, request.ttl_ms) == (
        SESSION.head,
        attempt.ref,
        "new",
        77,
    )
    first = extend(b"", pack_ids([1, 2, 3]))
    assert [step.head for step in request.entries] == [Head(3, first), Head(4, extend(first, pack_ids([4])))]
    assert [(step.prompt_tokens, step.output_tokens, step.cached_tokens) for step in request.entries] == [
        (2, 1, 0),
        (1, 0, 0),
    ]
    assert [(step.step_id, step.messages, step.output, step.seed, step.commit_ms) for step in request.entries] == [
        (step.step_id, step.messages, step.output, step.seed, step.commit_ms) for step in (entry(0), entry(1))
    ]


async def test_steps_that_keep_their_tokens_come_first() -> None:
    kept = pack_ids([1, 2, 3, 4, 5, 6, 7])
    plan = Rewriting(kept=1, without_thinking=2, kept_ids=kept)
    entries = [replace(entry(number), head=Head(7, extend(b"", kept))) for number in range(3)]
    (piece,) = pieces(entries, plan)
    assert [step.without_thinking for step in piece] == [True, False]
    first, later = (render_request(migrating(), piece, before, plan) for before in ([], [RenderedStep(kept, b"")]))
    assert (first.steps_before, first.tokens_before, first.last_token_id) == (1, 7, 7)
    assert (later.steps_before, later.tokens_before, later.HasField("last_token_id")) == (2, 14, False)
    request = migrate_request(migrating(), entries, [RenderedStep(pack_ids([8]), b"")] * 2, plan)
    assert request.entries[0] == entries[0]
    assert (request.packed_ids, request.without_thinking) == (kept + pack_ids([8, 8]), 2)
    check_migration(request)


def with_thinking(roles: str, thoughts: str) -> list[LogEntry]:
    """Steps that begin with a (u)ser's message or a (t)ool's result, whose output has thinking where it says `!`."""
    return [
        replace(
            entry(number),
            messages=({"role": {"u": "user", "t": "tool"}[role], "content": "?"},),
            output={**entry(number).output, **({"reasoning": "Hm."} if thought == "!" else {})},
        )
        for number, (role, thought) in enumerate(zip(roles, thoughts, strict=True))
    ]


@pytest.mark.parametrize(
    ("roles", "thoughts", "begins", "next_role", "same_revision", "expected"),
    [
        ("uu", ".!", 1, MessageRole.USER, True, Rewriting(1, 2)),
        ("utu", "!!.", 0, MessageRole.USER, True, Rewriting(0, 3)),
        ("uuu", "!.!", 1, MessageRole.USER, True, Rewriting(2, 3)),
        ("uu", "..", 0, MessageRole.USER, True, None),
        ("uu", "..", 0, MessageRole.USER, False, Rewriting(0, 2)),
        ("utut", "!!!!", 0, MessageRole.TOOL, False, Rewriting(0, 2)),
        ("ttt", "!!!", 0, MessageRole.TOOL, False, Rewriting(0, 0)),
    ],
)
async def test_what_is_rendered_again_and_what_without_thinking(
    roles: str, thoughts: str, begins: int, next_role: MessageRole, same_revision: bool, expected: Rewriting | None
) -> None:
    pool = replace(POOL, drops_thinking=True)
    session = replace(SESSION, steps=len(roles), thinking_from=begins)
    attempt = attempt_of(pool, session, request=StepRequest(session.session_id, "s", (Message(next_role, "."),)))
    if not same_revision:
        attempt.migrates_to(pool)
    assert rewriting(attempt, with_thinking(roles, thoughts)) == expected


@pytest.mark.parametrize(
    "tokens", [[], [RenderedStep(b"", b"")], [RenderedStep(b"12345", b"")], [RenderedStep(b"1234", b"")] * 2]
)
async def test_what_a_worker_leaves_out_or_adds_is_noticed(tokens: list[RenderedStep]) -> None:
    with pytest.raises(ValueError, match=r"step|shorter|longer"):
        migrate_request(migrating(), [entry(0)], tokens, Rewriting())
