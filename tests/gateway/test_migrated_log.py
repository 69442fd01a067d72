"""A log on its way to another revision: cut into requests, and put together again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.contract.heads import Head
from roost.contract.loghash import extend, pack_ids
from roost.contract.pool_document import PoolDocument
from roost.store.records import LogEntry
from roost_gateway.step import worker_requests
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.migration import migrate_request
from roost_gateway.step.output import RenderedStep
from roost_gateway.step.rewriting import Rewriting
from roost_gateway.step.worker_requests import pieces, render_request
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


@pytest.mark.parametrize(
    "tokens", [[], [RenderedStep(b"", b"")], [RenderedStep(b"12345", b"")], [RenderedStep(b"1234", b"")] * 2]
)
async def test_what_a_worker_leaves_out_or_adds_is_noticed(tokens: list[RenderedStep]) -> None:
    with pytest.raises(ValueError, match=r"step|shorter|longer"):
        migrate_request(migrating(), [entry(0)], tokens, Rewriting())
