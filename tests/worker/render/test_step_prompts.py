"""A step's prompt continues the log; together they read like the whole conversation rendered at once."""

import json

import pytest

import family_models
from roost.v1 import session_service_pb2 as api
from roost_worker.render.errors import RenderError
from roost_worker.render.messages import Message, Tool, ToolCall

STABLE = ("smollm2", "llama3")
GREP = Tool("grep", "Search files.", '{"type": "object", "properties": {"query": {"type": "string"}}}')


def _whole(name: str, messages: list[Message]) -> list[int]:
    """The conversation by the template itself and by the tokenizer as `transformers` uses it, all at once."""
    from roost_worker.render.messages import template_message
    from roost_worker.render.sandbox import ChatTemplate

    template = ChatTemplate(family_models.template(name), *family_models.BOUNDS[name])
    pieces = template.render([template_message(item) for item in messages], None, generation_prompt=True)
    text = "".join(piece.text for piece in pieces)
    return list(family_models.full_tokenizer(name).encode(text, add_special_tokens=False).ids)


def _end_id(name: str) -> int:
    return family_models.renderer(name).vocabulary.control[family_models.BOUNDS[name][1]]


@pytest.mark.parametrize("name", STABLE)
@pytest.mark.parametrize("ends_itself", [True, False])
def test_steps_one_by_one_equal_the_whole_conversation(name: str, ends_itself: bool) -> None:
    renderer = family_models.renderer(name)
    turns = [Message("user", "Find the needle."), Message("user", "And 1234 more?"), Message("user", "Thanks, é😀!")]
    answers = ["In the haystack.", "There are none."]
    log: list[int] = []
    conversation = [Message("system", "Be brief.")]
    for turn, answer in zip(turns, [*answers, ""], strict=True):
        log += renderer.render_step(system="Be brief.", log_ids=log, messages=[turn])
        conversation.append(turn)
        assert log == _whole(name, conversation)
        log += renderer.vocabulary.encode_content(answer)
        log += [_end_id(name)] if ends_itself else []
        conversation.append(Message("assistant", answer))


@pytest.mark.parametrize("name", family_models.NAMES)
def test_a_turn_that_was_cut_off_is_closed_by_the_next_step(name: str) -> None:
    render = family_models.renderer(name).render_step
    after_stop = list(render(log_ids=[1, _end_id(name)], messages=[Message("user", "next")]))
    after_cut = list(render(log_ids=[1, 2], messages=[Message("user", "next")]))
    assert after_cut == [_end_id(name), *after_stop]


@pytest.mark.parametrize("name", family_models.NAMES)
def test_a_later_step_does_not_depend_on_system_text_tools_or_log(name: str) -> None:
    render = family_models.renderer(name).render_step
    messages = [Message("user", "next")]
    bare = render(log_ids=[5, 6], messages=messages)
    assert render(log_ids=[9] * 50 + [6], messages=messages, system="Other.", tools=[GREP]) == bare


@pytest.mark.parametrize("name", family_models.NAMES)
def test_system_text_and_tools_are_in_the_first_step_only(name: str) -> None:
    renderer = family_models.renderer(name)
    first = renderer.render_step(system="Be brief.", tools=[GREP], messages=[Message("user", "hello")])
    text = family_models.spell(name, list(first))
    assert "Be brief." in text
    assert "Search files." in text
    assert "hello" in text
    later = renderer.render_step(system="Be brief.", tools=[GREP], log_ids=first, messages=[Message("user", "more")])
    assert "Be brief." not in family_models.spell(name, list(later))
    assert "You are a helpful" not in family_models.spell(name, list(later))


def test_smollm2_is_told_of_tools_although_its_template_passes_over_them() -> None:
    ids = family_models.renderer("smollm2").render_step(tools=[GREP], messages=[Message("user", "hello")])
    text = family_models.spell("smollm2", list(ids))
    assert text.startswith(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face\n\nYou are an expert"
    )
    assert '<tools>[{"type": "function", "function": {"name": "grep"' in text
    assert text.count("<|im_start|>system") == 1


def test_smollm2_keeps_its_default_system_text_without_tools() -> None:
    ids = family_models.renderer("smollm2").render_step(messages=[Message("user", "hello")])
    assert list(ids) == _whole("smollm2", [Message("user", "hello")])


EXPECTED_RESULTS = {
    "smollm2": "\n<|im_start|>tool\none<|im_end|>\n<|im_start|>tool\ntwo<|im_end|>\n<|im_start|>assistant\n",
    "qwen3": "\n<|im_start|>user\n<tool_response>\none\n</tool_response>"
    "\n<tool_response>\ntwo\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    "llama3": '<|start_header_id|>ipython<|end_header_id|>\n\n"one"<|eot_id|>'
    '<|start_header_id|>ipython<|end_header_id|>\n\n"two"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n',
    "mistral": '[TOOL_RESULTS] {"content": "one", "call_id": "a"}[/TOOL_RESULTS]'
    '[TOOL_RESULTS] {"content": "two", "call_id": "b"}[/TOOL_RESULTS]',
}


@pytest.mark.parametrize("name", family_models.NAMES)
def test_tool_results_are_written_as_the_family_writes_them(name: str) -> None:
    results = [Message("tool", "one", tool_call_id="a"), Message("tool", "two", tool_call_id="b")]
    ids = family_models.renderer(name).render_step(log_ids=[_end_id(name)], messages=results)
    assert family_models.spell(name, list(ids)) == EXPECTED_RESULTS[name]


@pytest.mark.parametrize("name", family_models.NAMES)
def test_calls_of_an_earlier_turn_are_shown_when_a_conversation_is_rendered_again(name: str) -> None:
    call = ToolCall("call00001", "grep", '{"query": "needle"}')
    messages = [
        Message("user", "go"),
        Message("assistant", "", (call,)),
        Message("tool", "found", tool_call_id="call00001"),
    ]
    text = family_models.spell(name, list(family_models.renderer(name).render_step(messages=messages)))
    assert json.dumps({"query": "needle"}) in text
    assert text.index("go") < text.index("needle") < text.index("found")


def test_protobuf_messages_are_taken_as_they_are() -> None:
    renderer = family_models.renderer("qwen3")
    tool = api.Tool(name=GREP.name, description=GREP.description, parameters_json=GREP.parameters_json)
    user = api.Message(role=api.MESSAGE_ROLE_USER, content="hello")
    assert renderer.render_step(tools=[tool], messages=[user]) == renderer.render_step(
        tools=[GREP], messages=[Message("user", "hello")]
    )


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "at least one message"),
        ([Message("user", "hi"), Message("assistant", "hello")], "the last message is the assistant's"),
        ([api.Message(content="who?")], "role 'unspecified' is unknown"),
    ],
)
def test_a_step_that_cannot_be_rendered_says_why(messages: list[Message], reason: str) -> None:
    with pytest.raises(RenderError, match=reason):
        family_models.renderer("smollm2").render_step(messages=messages)


@pytest.mark.parametrize("schema", ["{", "[]", "7"])
def test_a_tool_with_a_bad_schema_is_named(schema: str) -> None:
    with pytest.raises(RenderError, match=r"tool 'grep': parameters_json"):
        family_models.renderer("smollm2").render_step(
            tools=[Tool("grep", "", schema)], messages=[Message("user", "hi")]
        )


def test_a_tool_that_takes_any_object_is_rendered_as_one_without_a_schema() -> None:
    whatever, nothing = (Tool("grep", "Search.", schema) for schema in ("true", ""))
    renderer, messages = family_models.renderer("qwen3"), [Message("user", "hi")]
    assert renderer.render_step(tools=[whatever], messages=messages) == renderer.render_step(
        tools=[nothing], messages=messages
    )


def test_a_system_message_after_the_sessions_system_text_is_a_message_of_its_own() -> None:
    messages = [Message("system", "b"), Message("user", "c")]
    assert list(family_models.renderer("smollm2").render_step(system="a", messages=messages)) == _whole(
        "smollm2", [Message("system", "a"), *messages]
    )


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(RenderError, match="not valid Unicode"):
        family_models.renderer("smollm2").render_step(messages=[Message("user", "\ud800")])
