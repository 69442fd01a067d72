"""Long prompts: refused before they are encoded, encoded in turns, and nobody waits for them."""

import asyncio
import threading
from array import array
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

import family_models
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost_worker.render.renderer import Renderer
from roost_worker.render.tokenizing import SLICE_CHARACTERS
from roost_worker.server.prompts import LONG_BYTES, Prompts

WORDS = "word, " * (3 * LONG_BYTES // 6)
NO_LOG = array("I")
ENDLESS = 1 << 30


@dataclass
class Turns:
    """Records whose slices of long prompts are encoded; closed, it holds up the next one."""

    order: list[int] = field(default_factory=list)
    opened: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def watch(self, renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
        encode_slices = renderer.vocabulary.encode_slices
        numbers = iter(range(1000))

        def watched(pieces: Any) -> "Iterator[array[int]]":
            if sum(len(piece.text) for piece in pieces) <= LONG_BYTES:
                yield from encode_slices(pieces)
                return
            number = next(numbers)
            for part in encode_slices(pieces):
                self.reached.set()
                self.opened.wait()
                self.order.append(number)
                yield part

        monkeypatch.setattr(renderer.vocabulary, "encode_slices", watched)


def start_of(text: str, **fields: Any) -> pb.Start:
    return pb.Start(messages=[api.Message(role=api.MESSAGE_ROLE_USER, content=text)], **fields)


def nothing() -> None:
    """A check that passes."""


@pytest.fixture
def renderer() -> Renderer:
    return family_models.renderer("smollm2")


@pytest_asyncio.fixture
async def prompts(renderer: Renderer) -> AsyncIterator[Prompts]:
    prompts = Prompts(renderer)
    yield prompts
    prompts.close()


@pytest.fixture
def turns(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    turns = Turns()
    turns.opened.set()
    turns.watch(renderer, monkeypatch)
    yield turns
    turns.opened.set()


@pytest.mark.parametrize("size", [10, 10_000, 3 * LONG_BYTES])
async def test_a_prompt_of_any_length_is_rendered_alike(prompts: Prompts, renderer: Renderer, size: int) -> None:
    start = start_of(WORDS[:size], system="Be kind.")
    expected = renderer.render_step(messages=start.messages, system="Be kind.")
    assert await prompts.prompt(start, NO_LOG, ENDLESS, nothing) == expected


async def test_a_prompt_has_the_sessions_date() -> None:
    renderer = family_models.renderer("llama3")
    prompts = Prompts(renderer)
    ids = await prompts.prompt(start_of("hello", date="2031-05-04"), NO_LOG, ENDLESS, nothing)
    prompts.close()
    assert "Today Date: 04 May 2031\n" in family_models.spell("llama3", list(ids))


async def test_long_prompts_take_turns(prompts: Prompts, turns: Turns) -> None:
    await asyncio.gather(*(prompts.prompt(start_of(WORDS), NO_LOG, ENDLESS, nothing) for _ in range(4)))
    order = turns.order
    assert {order.count(number) for number in range(4)} == {order.count(0)}
    all_began = max(order.index(number) for number in range(4))
    first_ended = min(len(order) - 1 - order[::-1].index(number) for number in range(4))
    assert first_ended - all_began > 20
    for place in range(all_began, first_ended - 3):
        assert set(order[place : place + 4]) == {0, 1, 2, 3}


@pytest.mark.parametrize("size", [10, LONG_BYTES // 2])
async def test_an_ordinary_prompt_does_not_wait_for_long_ones(prompts: Prompts, turns: Turns, size: int) -> None:
    turns.opened.clear()
    long = [asyncio.create_task(prompts.prompt(start_of(WORDS), NO_LOG, ENDLESS, nothing)) for _ in range(40)]
    try:
        await asyncio.to_thread(turns.reached.wait)
        assert len(await prompts.prompt(start_of(WORDS[:size]), NO_LOG, ENDLESS, nothing)) > 0
        assert turns.order == []
    finally:
        for task in long:
            task.cancel()
        turns.opened.set()
        await asyncio.gather(*long, return_exceptions=True)


async def test_a_prompt_that_cannot_fit_is_not_rendered(
    prompts: Prompts, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renderer, "step_pieces", None)
    most = renderer.vocabulary.max_bytes_per_token
    with pytest.raises(Refused, match="prompt at least 60: together they must be fewer than the 100") as raised:
        await prompts.prompt(start_of("x" * (60 * most)), array("I", range(40)), 100, nothing)
    assert raised.value.reason is Reason.STEP_TOO_LONG
    assert raised.value.metadata == {"log_tokens": "40", "prompt_tokens": "60", "limit_tokens": "100"}


async def test_what_may_fit_is_encoded(prompts: Prompts, renderer: Renderer) -> None:
    """The text of the longest token, again and again, is as short as a prompt can be."""
    vocabulary = renderer.vocabulary
    longest = max(vocabulary.token_bytes, key=len)
    assert len(longest) == vocabulary.max_bytes_per_token
    prompt = await prompts.prompt(start_of(longest.decode() * 50), NO_LOG, 150, nothing)
    assert 50 < len(prompt) < 150


async def test_encoding_stops_where_the_context_is_full(
    prompts: Prompts, renderer: Renderer, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renderer.vocabulary, "max_bytes_per_token", 0)
    limit = 20_000
    with pytest.raises(Refused, match="at least") as raised:
        await prompts.prompt(start_of(WORDS), NO_LOG, limit, nothing)
    assert raised.value.reason is Reason.STEP_TOO_LONG
    assert limit <= int(raised.value.metadata["prompt_tokens"]) < limit + SLICE_CHARACTERS
    assert len(turns.order) < len(WORDS) / SLICE_CHARACTERS / 2


async def test_a_step_that_has_ended_is_not_encoded_further(prompts: Prompts, turns: Turns) -> None:
    def ended() -> None:
        raise Refused(Reason.CANCELLED, "cancelled")

    with pytest.raises(Refused, match="cancelled"):
        await prompts.prompt(start_of(WORDS), NO_LOG, ENDLESS, ended)
    assert len(turns.order) == 1


async def test_text_that_cannot_be_rendered_is_the_callers_fault(prompts: Prompts) -> None:
    for size in (0, 10_000, 3 * LONG_BYTES):
        start = pb.Start(messages=[api.Message(role=api.MESSAGE_ROLE_ASSISTANT, content=WORDS[:size])])
        with pytest.raises(Refused, match="must be the user's") as raised:
            await prompts.prompt(start, NO_LOG, ENDLESS, nothing)
        assert (raised.value.reason, raised.value.violations[0][0]) == (Reason.INVALID_REQUEST, "messages")
