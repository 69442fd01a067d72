"""What a null worker says, and the attempts in which it says it."""

import asyncio
from array import array
from dataclasses import dataclass, field

from roost.contract.loghash import EMPTY, extend, pack_ids
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.fault_points import fault_point
from roost.v1 import session_service_pb2 as pb
from roost.v1 import worker_service_pb2 as wpb

BASE_ID = 1000


@dataclass(slots=True)
class Script:
    """What a null worker does. It may be changed while it runs."""

    tokens: int = 8
    interval: float = 0.0
    """Seconds between deltas."""
    prompt_ids: int = 4
    tokens_per_delta: int = 1
    hang_after: int | None = None
    """Stops after so many tokens, until `resume_output` is set."""
    break_after: int | None = None
    """Breaks the stream, once, after so many tokens; the attempt stays as an orphan."""
    break_always: bool = False
    """Breaks every stream at `break_after`, also of a replay that has as many tokens already."""
    refuse: Reason | None = None
    refuse_render: Reason | None = None
    """Once."""
    renders_short: bool = False
    refuse_check: Refused | None = None
    """What CheckSession answers, until it is reset."""
    unconstrained: dict[str, str] = field(default_factory=dict)
    """Keywords by tool."""
    lie_about_offsets: bool = False
    forget_orphans: bool = False
    warnings: tuple[str, ...] = ()
    """Of the output's text."""
    reasoning: str = ""
    reasoning_tokens: int = 0
    stop_string: str = ""
    """What `Finished` says that the output ended at."""
    gpu_seconds: float = 0.0
    """What `Finished` says that each step took."""
    calls: tuple[tuple[str, str], ...] = ()
    """Names and arguments of the output's tool calls, whose ids no other step's calls have."""
    ask_history: bool = False
    """Asks for the whole log even when it is parked here."""
    eviction: pb.KvEviction | None = None
    """What it says that it has dropped of any session."""
    capacity_tokens: int = 100_000
    max_running: int = 64


@dataclass(slots=True)
class Attempt:
    """One attempt that runs, or whose output waits for its Commit or its Resume."""

    epoch: int
    nonce: bytes
    session_id: str
    history: "array[int]"
    prompt: "array[int]"
    total: int
    cached: int
    ids: "array[int]" = field(default_factory=lambda: array("I"))
    task: asyncio.Task[None] | None = None
    grown: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False

    def call_id(self, number: int) -> str:
        return f"call_{self.session_id.rpartition('/')[2]}_{len(self.history)}_{number}"

    def text(self, upto: int | None = None) -> str:
        return "".join(token_text(token) for token in self.ids[:upto])

    def parts_text(self, upto: int) -> str:
        """The text of the parts so far, which lags behind by a blank until the output ends."""
        return self.text(upto) if upto >= self.total else self.text(upto).rstrip()

    def delta(self, sent: int, upto: int, sent_bytes: int, *, lies: bool) -> wpb.Delta:
        """The tokens from `sent` to `upto`."""
        part_offset = len(self.parts_text(sent))
        return wpb.Delta(
            token_offset=sent + lies,
            token_ids=self.ids[sent:upto],
            text_offset=sent_bytes,
            text="".join(token_text(token) for token in self.ids[sent:upto]),
            part_offset=part_offset,
            parts=[pb.OutputPart(text=self.parts_text(upto)[part_offset:])],
        )

    @property
    def done(self) -> bool:
        return len(self.ids) >= self.total


def checked(request: wpb.CheckSessionRequest, unconstrained: dict[str, str]) -> wpb.CheckSessionResponse:
    """The answer to a session that is taken."""
    response = wpb.CheckSessionResponse(prompt_tokens=4)
    for tool in request.tools:
        keyword = unconstrained.get(tool.name, "")
        response.tools.add(name=tool.name, constrained=not keyword, keyword=keyword)
    return response


def token_text(token: int) -> str:
    """Text of one null token, with a character of two bytes."""
    return f"é{token} "


RENDERED_ID = 5000


def rendered(request: wpb.RenderRequest, *, short: bool) -> wpb.RenderResponse:
    """A log as a null worker renders it: ids of its text's bytes, others for each revision."""
    base = RENDERED_ID + sum(request.model_revision.encode())
    response = wpb.RenderResponse()
    for step in request.steps:
        prompt = "".join(message.content for message in step.messages).encode() or b"."
        said = step.output.content if step.without_thinking else step.text
        output = said.encode()[: 1 if short else None]
        ids = [pack_ids(base + byte for byte in text) for text in (prompt, output)]
        response.steps.add(prompt_token_ids=ids[0], output_token_ids=ids[1])
        fault_point("worker.render.step")
    return response


def log_hash(ids: "array[int]", ends: list[int]) -> bytes:
    """Hash of a log whose steps end at `ends`."""
    linked, begin = EMPTY, 0
    for end in ends:
        linked, begin = extend(linked, pack_ids(ids[begin:end])), end
    assert begin == len(ids), "steps that end elsewhere than the log"
    return linked
