"""A log without the thinking of earlier turns reads as the templates of models that think write it."""

# ruff: noqa: RUF001  DeepSeek's marks have fullwidth bars.
from array import array

import pytest

import family_models
from roost_worker.render.formats import TurnFormat, format_named
from roost_worker.render.log import LogRenderer
from roost_worker.render.messages import Message, Tool, ToolCall, template_message
from roost_worker.render.probing import text_of
from roost_worker.render.renderer import Renderer
from roost_worker.render.sandbox import ChatTemplate

QWEN3, R1, MISTRAL = (format_named(name) for name in ("qwen3", "deepseek-r1", "mistral-v13"))
CALL = ToolCall("call_0", "grep", '{"query": "needle"}')
TOOLS = (Tool("grep", "Search.", '{"type": "object"}'),)
QUESTION, RESULT, NEXT = Message("user", "Where?"), Message("tool", "7", tool_call_id="call_0"), Message("user", "And?")


def model(known: TurnFormat) -> Renderer:
    return family_models.format_renderer(known, special_marks=False)


def spelled(renderer: Renderer, ids: "array[int]") -> str:
    table = list(renderer.vocabulary.token_bytes)
    for text, index in renderer.vocabulary.control.items():
        table[index] = text.encode()
    return b"".join(table[index] for index in ids).decode()


def rendered(renderer: Renderer, *steps: tuple[Message, Message, str]) -> str:
    """The log of the steps without thinking, and the prompt of a user's message after it."""
    log, ids = LogRenderer(renderer, "", TOOLS), array("I")
    for message, output, text in steps:
        for part in log.step([message], output, text, without_thinking=True):
            ids += part
    return spelled(renderer, ids + renderer.render_step(messages=[NEXT], log_ids=[-1], tools=TOOLS))


def test_qwen3s_own_template_writes_the_same() -> None:
    calls = Message("assistant", "Let me look.", (CALL,))
    answer = Message("assistant", "At 7.")
    text = f"<think>\nHm.\n</think>\n\n{text_of(QWEN3.calls.message_pieces(calls.content, [CALL]))}"
    steps = [(QUESTION, calls, text), (RESULT, answer, "<think>\nSo.\n</think>\n\nAt 7.")]
    own = ChatTemplate(family_models.template("qwen3"), *family_models.BOUNDS["qwen3"])
    conversation = [Message("system", "Be brief."), QUESTION, calls, RESULT, answer, NEXT]
    documents = [template_message(message) for message in conversation]
    documents[2]["reasoning_content"], documents[4]["reasoning_content"] = "Hm.", "So."
    expected = "".join(piece.text for piece in own.render(documents, None, generation_prompt=True))
    renderer = family_models.renderer("qwen3")
    log, ids = LogRenderer(renderer, "Be brief.", ()), array("I")
    for message, output, wrote in steps:
        for part in log.step([message], output, wrote, without_thinking=True):
            ids += part
    ids += renderer.render_step(messages=[NEXT], log_ids=[-1])
    assert family_models.spell("qwen3", list(ids)) == expected


def test_thinking_that_the_prompt_opens_is_not_opened() -> None:
    text = rendered(model(R1), (QUESTION, Message("assistant", "At 7."), "Hm.</think>\n\nAt 7."))
    assert text.endswith(
        "<｜User｜>Where?<｜Assistant｜>At 7.<｜end▁of▁sentence｜><｜User｜>And?<｜Assistant｜><think>\n"
    )


@pytest.mark.parametrize("text", ["Hm.", "<think>Hm."])
def test_of_thinking_that_was_cut_off_nothing_is_left(text: str) -> None:
    assert rendered(model(R1), (QUESTION, Message("assistant", ""), text)).count("Hm.") == 0


@pytest.mark.parametrize("known", [QWEN3, R1, MISTRAL], ids=lambda known: known.name)
def test_what_was_written_without_thinking_stays_as_it_is(known: TurnFormat) -> None:
    renderer, answer, calls = model(known), Message("assistant", " At\n7. "), Message("assistant", "Wait.", (CALL,))
    for output, text in ((answer, answer.content), (calls, text_of(known.calls.message_pieces("Wait.", [CALL])))):
        kept, gone = (
            LogRenderer(renderer, "", TOOLS).step([QUESTION], output, text, without_thinking=without)[1]
            for without in (False, True)
        )
        assert gone == kept


@pytest.mark.parametrize("known", [QWEN3, R1, MISTRAL], ids=lambda known: known.name)
@pytest.mark.parametrize("written", [QWEN3, R1, MISTRAL], ids=lambda known: known.name)
def test_calls_stay_and_their_thinking_goes_whatever_format_they_were_written_in(
    known: TurnFormat, written: TurnFormat
) -> None:
    marks = written.thinking
    assert marks is not None
    text = f"{marks.open}Hm.{marks.close}{text_of(written.calls.message_pieces('Wait.', [CALL]))}"
    shown = rendered(model(known), (QUESTION, Message("assistant", "Wait.", (CALL,)), text))
    assert text_of(known.calls.message_pieces("Wait.", [CALL])) in shown
    assert "Hm." not in shown


@pytest.mark.parametrize("ends_itself", [True, False])
def test_a_turn_that_keeps_its_tokens_is_closed_once(ends_itself: bool) -> None:
    renderer = model(QWEN3)
    end = renderer.vocabulary.control["<|im_end|>"]
    kept = renderer.render_step(messages=[QUESTION]) + array("I", renderer.vocabulary.encode_content("At 7."))
    kept += array("I", [end] * ends_itself)
    log = LogRenderer(renderer, "", (), steps=1, length=len(kept), last_id=kept[-1])
    prompt, output = log.step([NEXT], Message("assistant", "No."), "<think>Hm.</think>No.", without_thinking=True)
    turns = [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in ("Where?", "And?")]
    assert spelled(renderer, kept + prompt + output) == f"{turns[0]}At 7.<|im_end|>\n{turns[1]}No."
