"""Text streams depend on the ids alone: not on how they are grouped, and never say what may have to be taken back."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

import family_models
from roost_worker.render.detokenizer import TextStream
from roost_worker.render.renderer import Renderer
from roost_worker.render.vocabulary import Vocabulary

NAME = "qwen3"
STOPS = [[], ["."], ["end"], ["STOP", "TOP!"], ["é", "😀a"], ["aab", "ab"], ["\n\n", "\n"]]
any_ids = st.lists(st.integers(0, 450), max_size=40)
parts = [
    "a",
    "aa",
    "b",
    "ab",
    "é",
    "😀",
    "😀a",
    "\n",
    " ",
    ".",
    "e",
    "en",
    "end",
    "S",
    "ST",
    "STO",
    "STOP",
    "TOP!",
    "\0",
]
any_text = st.lists(st.sampled_from(parts), max_size=12).map("".join)


def _renderer() -> Renderer:
    return family_models.renderer(NAME)


def _bytes_as_ids(text: str) -> list[int]:
    """One id per byte, so that characters and stop strings are spread over ids."""
    table = {data: index for index, data in enumerate(_renderer().vocabulary.token_bytes) if len(data) == 1}
    return [table[bytes([byte])] for byte in text.encode()]


def _groups(ids: list[int], sizes: list[int]) -> list[list[int]]:
    groups, rest = [], ids
    for size in sizes:
        groups.append(rest[:size])
        rest = rest[size:]
    return [*groups, rest]


@given(ids=any_ids, sizes=st.lists(st.integers(0, 7), max_size=12), stop=st.sampled_from(STOPS))
@settings(max_examples=200, deadline=None)
def test_grouping_changes_nothing(ids: list[int], sizes: list[int], stop: list[str]) -> None:
    one_by_one, grouped = TextStream(_renderer(), stop), TextStream(_renderer(), stop)
    said: list[str] = []
    points = {0: ""}
    for count, index in enumerate(ids, 1):
        said.append(one_by_one.push([index]))
        points[count] = "".join(said)
    taken = 0
    heard = ""
    for group in _groups(ids, sizes):
        heard += grouped.push(group)
        taken += len(group)
        assert heard == points[taken]
    assert (grouped.stopped_at, grouped.stop_string) == (one_by_one.stopped_at, one_by_one.stop_string)
    assert one_by_one.flush() == grouped.flush()


@given(text=any_text, stop=st.sampled_from(STOPS))
@settings(max_examples=200, deadline=None)
def test_text_ends_where_the_first_complete_stop_string_begins(text: str, stop: list[str]) -> None:
    stream = TextStream(_renderer(), stop)
    ids = _bytes_as_ids(text)
    heard = "".join(stream.push([index]) for index in ids) + stream.flush()
    ends = sorted((text.find(item) + len(item), text.find(item)) for item in stop if item in text)
    if ends:
        end, _ = ends[0]
        start = min(begin for other, begin in ends if other == end)
        assert heard == text[:start]
        assert stream.stopped_at == len(text[:end].encode())
        assert stream.stop_string == text[start:end]
    else:
        assert heard == text
        assert (stream.stopped_at, stream.stop_string) == (None, "")


@given(ids=any_ids)
@settings(max_examples=100, deadline=None)
def test_text_equals_decoding_everything_at_once(ids: list[int]) -> None:
    stream = TextStream(_renderer())
    heard = stream.push(ids) + stream.flush()
    table = _renderer().vocabulary.token_bytes
    assert heard == b"".join(table[index] if index < len(table) else b"" for index in ids).decode(errors="replace")


def test_a_character_appears_when_it_is_complete() -> None:
    stream = TextStream(_renderer())
    assert [stream.push([index]) for index in _bytes_as_ids("a😀é")] == ["a", "", "", "", "😀", "", "é"]


def test_an_unfinished_character_ends_as_a_replacement_character() -> None:
    stream = TextStream(_renderer())
    assert stream.push(_bytes_as_ids("a😀")[:-1]) == "a"
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""


def test_what_may_become_a_stop_string_is_held_back_until_it_is_decided() -> None:
    stream = TextStream(_renderer(), ["STOP"])
    assert [stream.push([index]) for index in _bytes_as_ids("aSTa")] == ["a", "", "", "STa"]
    assert stream.push(_bytes_as_ids("ST")) == ""
    assert stream.flush() == "ST"


def test_ids_after_a_stop_string_are_passed_over() -> None:
    stream = TextStream(_renderer(), ["b"])
    assert stream.push(_bytes_as_ids("abcd")) == "a"
    assert stream.push(_bytes_as_ids("efg")) == ""
    assert (stream.stopped_at, stream.count, stream.flush()) == (2, 2, "")


def test_a_stop_string_counts_only_after_min_tokens() -> None:
    stream = TextStream(_renderer(), ["b"], min_tokens=3)
    assert stream.push(_bytes_as_ids("abab")) == "aba"
    assert stream.stopped_at == 4


def test_a_stop_string_that_came_before_min_tokens_does_not_count_although_another_holds_it_back() -> None:
    stream = TextStream(_renderer(), ["b", "bcd"], min_tokens=3)
    assert stream.push(_bytes_as_ids("abx")) == "abx"
    assert stream.push(_bytes_as_ids("bcd")) == ""
    assert (stream.stopped_at, stream.stop_string) == (4, "b")


@pytest.mark.parametrize("text", ["<|im_end|>", "<|endoftext|>"])
def test_special_tokens_are_never_shown(text: str) -> None:
    stream = TextStream(_renderer())
    assert stream.push([_renderer().vocabulary.control[text], *_bytes_as_ids("a"), 100_000]) == "a"


def test_ids_that_pad_the_logits_have_no_text() -> None:
    vocabulary = family_models.renderer("smollm2").vocabulary
    assert vocabulary.spell([*vocabulary.encode_content("ok"), len(vocabulary.token_bytes)]) == "ok"


def test_added_tokens_that_are_not_special_are_shown() -> None:
    stream = TextStream(_renderer())
    assert stream.push([_renderer().vocabulary.control["<tool_call>"]]) == "<tool_call>"


def _sequence(*more: dict[str, Any]) -> dict[str, Any]:
    spaces = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    return {"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}, *more]}


def _metaspace(**fields: Any) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "\u2581", **fields}


@pytest.mark.parametrize(
    "decoder",
    [
        _sequence({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
        _sequence({"type": "Strip", "content": " ", "start": 0, "stop": 0}),
        _sequence(),
        _metaspace(prepend_scheme="first", split=False),
        _metaspace(prepend_scheme="never", split=False),
        _metaspace(add_prefix_space=True),
    ],
)
@pytest.mark.parametrize("tokens", [["\u2581a", "\u2581a", "b"], ["\u2581", "\u2581a"], ["b", "\u2581a"]])
def test_the_first_space_is_kept_as_the_tokenizers_own_decoder_keeps_it(
    decoder: dict[str, Any], tokens: list[str]
) -> None:
    """Sentencepiece puts a space before a text, but not with all models: the decoders of others remove none."""
    names = ["\u2581", "a", "b", "\u2581a"]
    model = models.BPE({name: index for index, name in enumerate(names)}, [("\u2581", "a")])
    document = json.loads(Tokenizer(model).to_str()) | {"decoder": decoder}
    vocabulary, ids = Vocabulary(json.dumps(document)), [names.index(token) for token in tokens]
    renderer = cast(Renderer, SimpleNamespace(vocabulary=vocabulary, token_bytes=vocabulary.token_bytes))
    assert TextStream(renderer).push(ids) == Tokenizer.from_str(json.dumps(document)).decode(ids)
