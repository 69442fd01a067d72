"""Turns a Start message into what the engine needs. Pure; every refusal names the field."""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost_worker.engine.messages import SamplingParams
from roost_worker.render.description import SAMPLING_FIELDS
from roost_worker.render.formats import Turn
from roost_worker.render.renderer import Renderer
from roost_worker.server.grammar_check import Constraint
from roost_worker.server.refusals import invalid, step_too_long
from roost_worker.server.stages import SAMPLING, of_request

MAX_LOGPROBS = 20
INLINE_BYTES = 4096
"""Longer text is rendered in a thread, so that it does not hold up other streams."""
SMALLEST_TEMPERATURE = 1e-6
"""Below it, logits / temperature would overflow float32; such temperatures count as 0, the likeliest token."""


@dataclass(frozen=True, slots=True)
class Work:
    """A rendered step. `replayed` is output of an earlier attempt."""

    prompt_ids: "array[int]"
    replayed: "array[int]"
    sampling: SamplingParams
    grammar: str | None
    stop: tuple[str, ...]
    turn: Turn
    """What calls are parsed by; without tools there are none."""
    unenforced: Mapping[str, str]
    """The schemas that `grammar` does not enforce, as text, by the tool's name."""
    call_seed: bytes
    """What the ids of the step's calls follow from."""


def content_bytes(start: pb.Start) -> int:
    """Return the UTF-8 bytes of text to render."""
    return rendered_bytes(start, first=True)


def rendered_bytes(start: pb.Start, *, first: bool) -> int:
    """Return the UTF-8 bytes of text in a step's prompt. Only a session's `first` has system text and tools."""
    texts = [message.content for message in start.messages]
    texts += [call.name + call.arguments_json for message in start.messages for call in message.tool_calls]
    if first:
        texts += [start.system, *(tool.name + tool.description + tool.parameters_json for tool in start.tools)]
    return sum(len(text.encode()) for text in texts)


def is_replay(start: pb.Start) -> bool:
    """Whether the step has the prompt and output ids of an earlier attempt."""
    return start.HasField("replay") and len(start.replay.prompt_token_ids) > 0


def prepare(
    start: pb.Start,
    log_tokens: int,
    prompt_ids: "array[int]",
    renderer: Renderer,
    limit: int,
    constraint: Constraint,
) -> Work:
    """Return the work of a step whose prompt continues a log, in a context of at most `limit` tokens.

    Raise Refused: INVALID_REQUEST, STEP_TOO_LONG.
    """
    room = limit - log_tokens - len(prompt_ids)
    if room < 1:
        raise step_too_long(log_tokens, len(prompt_ids), limit)
    with of_request(SAMPLING):
        sampling = replace(sampling_params(start.sampling, room, renderer), prompt_lookup=start.prompt_lookup)
    return Work(
        prompt_ids,
        array("I", start.replay.output_token_ids if is_replay(start) else ()),
        sampling,
        constraint.grammar,
        tuple(start.sampling.stop),
        replace(turn_of(start, renderer), checked=frozenset(constraint.unenforced)),
        constraint.unenforced,
        start.call_seed or start.attempt.nonce,
    )


def sampling_params(sampling: api.Sampling, room: int, renderer: Renderer) -> SamplingParams:
    """Return the engine's parameters; `max_tokens` is at most `room`. Unset fields take the model's defaults.

    Raise Refused, INVALID_REQUEST.
    """
    eos = () if sampling.ignore_eos else renderer.eos_token_ids
    drawn: dict[str, Any] = {**renderer.sampling_defaults, **_given(sampling)}
    if 0 < drawn.get("temperature", 0.0) < SMALLEST_TEMPERATURE:
        drawn["temperature"] = 0.0
    params = SamplingParams(
        **drawn,
        seed=sampling.seed,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        max_tokens=min(room, sampling.max_tokens) if sampling.HasField("max_tokens") else room,
        min_tokens=sampling.min_tokens,
        stop_token_ids=frozenset((*eos, *sampling.stop_token_ids)),
        logit_bias=tuple(sorted(sampling.logit_bias.items())),
        logprobs=sampling.logprobs if sampling.HasField("logprobs") else None,
    )
    _check_sampling(params, renderer.vocab_size)
    return params


def _given(sampling: api.Sampling) -> dict[str, float]:
    """Return the fields that the step sets, of those that a model may have defaults for."""
    return {name: getattr(sampling, name) for name in SAMPLING_FIELDS if sampling.HasField(name)}  # type: ignore[arg-type]


def turn_of(start: pb.Start, renderer: Renderer) -> Turn:
    """Return how the output's text is parsed. A format that allows no calls leaves it no tools."""
    tools = frozenset(tool.name for tool in start.tools)
    match start.format.WhichOneof("kind"):
        case "json_schema":
            return Turn(frozenset(), constrained=True)
        case "tool_choice" if start.format.tool_choice.mode == api.TOOL_CHOICE_MODE_NONE:
            tools = frozenset()
        case "tool_choice" if start.format.tool_choice.mode == api.TOOL_CHOICE_MODE_REQUIRED:
            return Turn(tools, constrained=True)
    in_thinking = renderer.opens_thinking(start.messages, start.tools)
    return Turn(tools, in_thinking=in_thinking, thinking_tokens=renderer.thinking_tokens)


def replayed_prompt(start: pb.Start, renderer: Renderer) -> "array[int]":
    """Return the prompt ids of an earlier attempt. Raise Refused, INVALID_REQUEST."""
    replay = start.replay
    if max((*replay.prompt_token_ids, *replay.output_token_ids)) >= renderer.vocab_size:
        raise invalid(f"replayed ids must be below {renderer.vocab_size}", field="replay")
    if replay.tokens > len(replay.output_token_ids):
        raise invalid("the client cannot have more tokens than are replayed", field="replay.tokens")
    return array("I", replay.prompt_token_ids)


def _check_sampling(params: SamplingParams, vocab_size: int) -> None:
    for name, valid, wanted in (
        ("temperature", params.temperature >= 0, "at least 0"),
        ("top_p", 0 < params.top_p <= 1, "in (0, 1]"),
        ("min_p", 0 <= params.min_p <= 1, "in [0, 1]"),
        ("presence_penalty", math.isfinite(params.presence_penalty), "finite"),
        ("frequency_penalty", math.isfinite(params.frequency_penalty), "finite"),
        ("repetition_penalty", params.repetition_penalty > 0, "above 0"),
        ("max_tokens", params.max_tokens >= 1, "at least 1"),
        ("logprobs", (params.logprobs or 0) <= MAX_LOGPROBS, f"at most {MAX_LOGPROBS}"),
        ("stop_token_ids", all(token < vocab_size for token in params.stop_token_ids), f"below {vocab_size}"),
        ("logit_bias", _is_bias(params.logit_bias, vocab_size), f"finite, for ids below {vocab_size}"),
    ):
        value = getattr(params, name)
        if not valid or (isinstance(value, float) and not math.isfinite(value)):
            raise invalid(f"sampling.{name} must be {wanted}", field=f"sampling.{name}")


def _is_bias(bias: Sequence[tuple[int, float]], vocab_size: int) -> bool:
    return all(token < vocab_size and math.isfinite(value) for token, value in bias)
