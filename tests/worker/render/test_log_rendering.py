"""A log rendered anew says what the old one said: the same text, with nobody's words turned into control tokens."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import family_models
from roost_worker.render.errors import RenderError
from roost_worker.render.formats import Turn, format_named
from roost_worker.render.log import LogRenderer, output_pieces
from roost_worker.render.messages import Message, Tool, ToolCall
from roost_worker.render.pieces import Piece
from roost_worker.render.probing import text_of

SYSTEM = "Be brief."
CALL = ToolCall("call_0", "grep", '{"query": "needle"}')
TOOLS = (Tool("grep", "Search.", '{"type": "object"}'),)
NASTY = sorted({text for texts in family_models.SPECIAL.values() for text in texts} | {"<think>", "<|im_", "end|>"})
words = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=5)), min_size=1, max_size=4).map("".join)
said = words.filter(str.strip)
conversations = st.lists(st.tuples(said, words, st.booleans(), st.booleans()), min_size=1, max_size=4)
"""Of each step: what the user says, what the model writes, whether it ends its turn itself, and whether its tokens are
single bytes, as a model may well draw them."""


def spelled(name: str, ids: Sequence[int]) -> bytes:
    table = family_models.all_bytes(name)
    return b"".join(table[index] for index in ids)


def single_bytes(name: str, text: str) -> list[int]:
    table = family_models.renderer(name).vocabulary.token_bytes
    return [table.index(bytes([byte])) for byte in text.encode()]


@pytest.mark.parametrize("name", family_models.NAMES)
@given(conversation=conversations)
@settings(max_examples=40, deadline=None)
def test_a_log_rendered_anew_by_its_own_revision_spells_the_same(
    name: str, conversation: list[tuple[str, str, bool, bool]]
) -> None:
    renderer = family_models.renderer(name)
    end = renderer.vocabulary.control[family_models.BOUNDS[name][1]]
    anew = LogRenderer(renderer, SYSTEM, TOOLS)
    log: list[int] = []
    rendered: list[int] = []
    for user, answer, ends_itself, by_bytes in conversation:
        message = Message("user", user)
        log += renderer.render_step(messages=[message], log_ids=log, system=SYSTEM, tools=TOOLS)
        written = single_bytes(name, answer) if by_bytes else renderer.vocabulary.encode_content(answer)
        log += [*written, *([end] if ends_itself else [])]
        prompt, output = anew.step([message], Message("assistant", answer), answer)
        assert spelled(name, output) == answer.encode()
        assert not set(output) & family_models.control_ids(name)
        rendered += [*prompt, *output]
    tail = [end] if conversation[-1][2] else []
    assert spelled(name, [*rendered, *tail]) == spelled(name, log)
    control = family_models.control_ids(name)
    assert [index for index in [*rendered, *tail] if index in control] == [index for index in log if index in control]
    assert anew.length == len(rendered)


@pytest.mark.parametrize("old", ["smollm2", "llama3", "mistral"])
@pytest.mark.parametrize("new", ["smollm2", "llama3", "mistral"])
def test_calls_are_written_as_the_new_family_writes_them(old: str, new: str) -> None:
    formats = {name: family_models.renderer(name).format for name in (old, new)}
    text = formats[old].calls.write([CALL])
    written = text_of(output_pieces(Message("assistant", "", (CALL,)), text, formats[new]))
    parsed = formats[new].parse(written, Turn({"grep"}))
    assert [(call.name, call.arguments_json) for call in parsed.calls] == [("grep", CALL.arguments_json)]
    if old == new:
        assert written == text


def test_text_that_only_looks_like_a_call_stays_as_it_is() -> None:
    text = format_named("chatml").calls.write([CALL])
    assert output_pieces(Message("assistant", text), text, format_named("llama3.1")) == [Piece(text, True)]


@pytest.mark.parametrize("arguments", ['{"t":NaN}', '{"n":1e400}', '{"a":1.10,"a":2}', "{"])
def test_calls_that_older_versions_committed_are_written_as_they_are(arguments: str) -> None:
    call = ToolCall("call_0", "gone", arguments)
    output = Message("assistant", "Wait.", (call,))
    written = output_pieces(output, "<think>thought</think>", format_named("chatml"))
    assert text_of(written) == f'Wait.\n<tool_call>\n{{"name": "gone", "arguments": {arguments}}}\n</tool_call>'


@pytest.mark.parametrize("before", ["", "<think>\nHm.\n</think>\n", "Hm.</think>"])
@pytest.mark.parametrize(
    ("open_mark", "close_mark"), [("<tool_call>", "</tool_call>"), ("<tool_call>\n", "\n</tool_call>")]
)
def test_a_call_to_a_tool_that_is_gone_keeps_its_arguments_and_what_stands_before_it(
    before: str, open_mark: str, close_mark: str
) -> None:
    text = f'{before}{open_mark}{{"name": "gone", "arguments": {{"n":1.10}}}}{close_mark}'
    call = ToolCall("call_0", "gone", '{"n":1.1}')
    pieces = output_pieces(Message("assistant", "", (call,)), text, format_named("chatml"))
    written = text_of(pieces)
    assert "".join(written.split()) == "".join(text.split())
    assert [piece.text for piece in pieces if piece.content and piece.text][-2:] == ["gone", '{"n":1.10}']
    if "\n" in open_mark:
        assert written == text


def test_an_empty_output_is_closed_by_the_next_prompt() -> None:
    renderer = family_models.renderer("smollm2")
    log = LogRenderer(renderer, "be", ())
    first, output = log.step([Message("user", "a")], Message("assistant"), "")
    second, _ = log.step([Message("user", "b")], Message("assistant"), "")
    assert len(output) == 0
    assert family_models.spell("smollm2", [*first, *second]) == (
        "<|im_start|>system\nbe<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
        "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_step_that_cannot_be_shown_is_named() -> None:
    log = LogRenderer(family_models.renderer("smollm2"), "", ())
    log.step([Message("user", "a")], Message("assistant", "b"), "b")
    with pytest.raises(RenderError, match="step 1: a step needs at least one message"):
        log.step([], Message("assistant", "b"), "b")
