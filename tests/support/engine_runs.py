"""Runs requests on an engine of their own over a tiny real model, with a tool's grammar or without."""

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from engine_driver import InlineExecutor
from grammars import Tool
from roost_worker.config import EngineConfig, WorkerConfig
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import EngineStats, SamplingParams, StopReason, Submit, TokenLogprob
from roost_worker.engine.plan import Runner
from roost_worker.grammar import build_tool_call
from roost_worker.render.formats import format_named
from runner_driver import prompts, worker_config

TEXT = {"type": "string", "maxLength": 6}


def tool(name: str, **properties: object) -> Tool:
    """A tool that takes these arguments, all of them required, and no others."""
    schema = {"properties": properties, "required": list(properties), "additionalProperties": False}
    return Tool(name, json.dumps(schema))


TOOLS = (
    tool("grep", query=TEXT, how={"enum": ["all", "any"]}),
    tool("grab", limit={"enum": [1, 2, 30]}, query=TEXT),
)
CALL = build_tool_call(TOOLS, "", format_named("chatml").calls.wrapper({}))
PROMPT = prompts(1, 12)[0]
GREEDY = SamplingParams(max_tokens=200)
SHAPES = {
    "greedy": GREEDY,
    "seeded": replace(GREEDY, seed=5, temperature=1.5),
    "truncated": replace(GREEDY, seed=6, temperature=1.5, top_k=40, top_p=0.9, min_p=0.01),
    "penalties": replace(
        GREEDY, seed=7, temperature=1.0, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.7
    ),
    "frequent": replace(GREEDY, frequency_penalty=-1.0),
    "repeated": replace(GREEDY, repetition_penalty=0.1),
    "bias": replace(GREEDY, logit_bias=((ord("e"), -50.0), (ord("'"), 50.0))),
    "stop ids": replace(GREEDY, stop_token_ids=frozenset(b"m"), min_tokens=20),
}


def config(most_forced: int, **fields: int) -> WorkerConfig:
    """A worker's config with small memory, in float64."""
    usual = worker_config(**{"context_tokens": 512, **fields})
    return replace(usual, engine=replace(usual.engine, max_forced_tokens=most_forced))


@dataclass
class Output:
    """What a request was answered."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    stop: StopReason | None = None


def submit(
    name: str,
    sampling: SamplingParams,
    output: Sequence[int] = (),
    grammar: str | None = CALL,
    prompt: Sequence[int] = PROMPT,
) -> Submit:
    """A request for `prompt`, with `output` replayed, whose next ids may be guessed."""
    sampling = replace(sampling, prompt_lookup=True)
    return Submit(name, array("I", [*prompt, *output]), len(prompt), sampling, b"tenant", None, grammar)


def generate(
    runner: Runner, *requests: Submit, batch: int = 64, drafts: int = 0
) -> tuple[dict[str, Output], EngineStats]:
    """Runs requests together on an engine of their own."""
    engine = Engine(runner, EngineConfig(4, batch, max_draft_tokens=drafts), 512, grammar_pool=InlineExecutor())
    answers = {request.request_id: Output() for request in requests}
    for request in requests:
        engine.handle(request)
    while any(answer.stop is None for answer in answers.values()):
        outputs = engine.iterate()
        assert outputs is not None
        engine.check_integrity()
        for output in outputs.outputs:
            assert not output.error
            answer = answers[output.request_id]
            answer.ids += output.token_ids
            answer.logprobs += output.logprobs
            answer.stop = output.stop
    return answers, engine.stats


def alone(
    runner: Runner,
    sampling: SamplingParams,
    output: Sequence[int] = (),
    grammar: str | None = CALL,
    prompt: Sequence[int] = PROMPT,
    drafts: int = 0,
) -> tuple[Output, int]:
    """Runs one request; returns its output and in how many batches it came."""
    answers, stats = generate(runner, submit("r", sampling, output, grammar, prompt), drafts=drafts)
    return answers["r"], stats.batches
