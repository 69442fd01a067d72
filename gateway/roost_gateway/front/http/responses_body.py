"""The body of POST /v1/responses, as Codex, the OpenAI SDKs and the frameworks on them send it. Pure."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from roost.contract.messages import ToolChoice, ToolChoiceMode
from roost_gateway.front.http.parameters import MAX_MESSAGES, Body, ParameterTable, Part, ignored, refused, supported
from roost_gateway.front.http.sampling import Count, Real

Id = Annotated[str, Field(min_length=1)]


def _blocks(content: object) -> object:
    """A text as the list of its one block, and no content as an empty list."""
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    return [] if content is None else content


class TextBlock(Part):
    type: Literal["input_text", "output_text", "text"]
    text: str


class RefusalBlock(Part):
    """What a model of OpenAI's says when it refuses; a text like others here."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


Texts = Annotated[list[Annotated[TextBlock | RefusalBlock, Field(discriminator="type")]], BeforeValidator(_blocks)]


class MessageItem(Part):
    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    content: Texts

    @property
    def text(self) -> str:
        """Blocks of an assistant are parts of one text, blocks of others are paragraphs."""
        between = "" if self.role == "assistant" else "\n"
        return between.join(block.text for block in self.content)


class CallItem(Part):
    type: Literal["function_call"]
    call_id: Id
    name: Id
    arguments: str = ""
    namespace: str | None = None

    @property
    def tool(self) -> str:
        """The tool's name in the session."""
        return joined(self.namespace, self.name)


class OutputItem(Part):
    type: Literal["function_call_output"]
    call_id: Id
    output: Texts

    @property
    def text(self) -> str:
        return "\n".join(block.text for block in self.output)


class ReasoningItem(Part):
    """Reasoning that comes back. It is dropped: the log has it."""

    type: Literal["reasoning"]


class ReferenceItem(Part):
    """An item of an earlier answer, by its id."""

    type: Literal["item_reference"]
    id: Id


def _typed(item: object) -> object:
    """An item whose type its client left out, with it."""
    if not isinstance(item, dict) or item.get("type") is not None:
        return item
    return {**item, "type": "message" if "role" in item or "id" not in item else "item_reference"}


Item = Annotated[
    MessageItem | CallItem | OutputItem | ReasoningItem | ReferenceItem,
    Field(discriminator="type"),
    BeforeValidator(_typed),
]


def _items(value: object) -> object:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class FunctionTool(Part):
    """A function. `strict` and `defer_loading` are not read: all tools are shown, and constrained where they can be."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class NamespaceTool(Part):
    """Functions under a common name, as Codex groups those of its sub-agents."""

    type: Literal["namespace"]
    name: str
    tools: list[FunctionTool]


class IgnoredTool(Part):
    """A tool that runs at OpenAI and that clients offer unasked: the model is not shown it."""

    type: Literal["web_search", "web_search_preview", "tool_search"]


Tool = Annotated[FunctionTool | NamespaceTool | IgnoredTool, Field(discriminator="type")]


def joined(namespace: str | None, name: str) -> str:
    """A function's name in the session."""
    return f"{namespace}__{name}" if namespace else name


def _tool_choice(value: object) -> ToolChoice | None:
    if value is None or value == "auto":
        return None
    if value in ("none", "required"):
        return ToolChoice(ToolChoiceMode(str(value)))
    match value:
        case {"type": "function", "name": str(name), **others} if name:
            namespace = others.get("namespace")
            return ToolChoice(ToolChoiceMode.REQUIRED, joined(namespace if isinstance(namespace, str) else None, name))
    raise PydanticCustomError("choice", 'must be "auto", "none", "required", or {"type": "function", "name": …}')


def _format(value: object) -> Mapping[str, Any] | None:
    match value:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"type": "object"}
        case {"type": "json_schema", "schema": dict(schema)}:
            return schema
    raise PydanticCustomError("format", "type must be text, json_object, or json_schema with schema")


class TextConfig(Part):
    format: Annotated[Mapping[str, Any] | None, PlainValidator(_format)] = None
    """The schema of the output."""


class ConversationName(Part):
    id: Id


def _conversation(value: object) -> object:
    return {"id": value} if isinstance(value, str) else value


class ResponsesBody(Body):
    """The supported parameters of /v1/responses."""

    model: str = ""
    input: Annotated[list[Item], Field(max_length=MAX_MESSAGES), BeforeValidator(_items)]
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: Annotated[ConversationName | None, BeforeValidator(_conversation)] = None
    tools: list[Tool] | None = None
    tool_choice: Annotated[ToolChoice | None, PlainValidator(_tool_choice)] = None
    text: TextConfig | None = None
    max_output_tokens: Count | None = None
    temperature: Real | None = None
    top_p: Real | None = None
    stream: bool | None = None
    background: bool | None = None
    prompt_cache_key: str | None = None

    def functions(self) -> Iterator[tuple[str | None, FunctionTool]]:
        """The functions that the model may call, each with its namespace."""
        for tool in self.tools or ():
            if isinstance(tool, FunctionTool):
                yield None, tool
            elif isinstance(tool, NamespaceTool):
                yield from ((tool.name, nested) for nested in tool.tools)


_ECHOED = {
    "conversation",
    "model",
    "instructions",
    "previous_response_id",
    "max_output_tokens",
    "temperature",
    "top_p",
    "tools",
}
"""Parameters that a response repeats, or that its events depend on."""


def echo_of(body: ResponsesBody) -> dict[str, Any]:
    """What a response needs of the body of its request, as a JSON object."""
    echo: dict[str, Any] = body.model_dump(mode="json", include=_ECHOED, exclude_none=True)
    return echo


def echoed(echo: Mapping[str, Any]) -> ResponsesBody:
    """The body of which `echo_of` kept a part, with that part and without input."""
    return ResponsesBody.model_validate({**echo, "input": []})


RESPONSES = ParameterTable(
    "/v1/responses",
    (
        supported("model", "name or alias of a pool's model, or `namespace/name` of a pool"),
        supported(
            "input",
            "a text, or messages, function calls and their outputs, reasoning (dropped: the log has it) and references "
            "to items of earlier answers; other items and images are refused. What the assistant says last is dropped",
        ),
        supported("instructions"),
        supported("previous_response_id", "the answer's session goes on"),
        supported(
            "conversation",
            "a conversation that `/v1/conversations` has created goes on; any other id names the client's "
            "conversation, and the history is still the client's to send",
        ),
        supported("tools", "functions, also in namespaces; web and tool searches are not shown, others refused"),
        supported("tool_choice", "`auto`, `none`, `required`, or a named function"),
        supported("text", "`format`; a schema beside tools only with tool_choice `none`"),
        supported("max_output_tokens", "the role's limit where it is left out"),
        supported("temperature", "the model's default where it is left out, and not 1"),
        supported("top_p"),
        supported("stream"),
        supported("background", "the step runs on without its client; not with `store` false"),
        supported("prompt_cache_key", "names the client's conversation, where no header does"),
        ignored("client_metadata", "Codex's headers say the same"),
        ignored("context_management", "the session's log keeps everything"),
        ignored("include", "answers always have `encrypted_content`, and nothing else to include"),
        ignored("max_tool_calls", "the client runs the tools"),
        ignored("metadata"),
        ignored("parallel_tool_calls", "with `false`, too, an answer may have several calls"),
        ignored("prompt_cache_options", "the pool's retention counts"),
        ignored("prompt_cache_retention", "the pool's retention counts"),
        ignored("reasoning", "the model reasons as its template says, and the answer has all of it as summary"),
        ignored("safety_identifier"),
        ignored("service_tier"),
        ignored("store", "answers are kept with their sessions, until these expire"),
        ignored("stream_options"),
        ignored("truncation", "what does not fit is refused"),
        ignored("user"),
        refused("moderation", "no other model reads along"),
        refused("prompt", "send `instructions` and `input`"),
        refused("top_logprobs", "the gRPC API has log-probabilities", harmless=(0,)),
    ),
)
