"""The seam between the shell (asyncio, tokenizer) and the engine (rank 0): plain, picklable messages.

The shell sends Submit, Cancel, Finish, Evict, Hold; the engine answers with one Outputs for each iteration that has
something to report. Nothing here knows how they travel (a thread's queue, or a socket between processes).
"""

from array import array
from dataclasses import dataclass, field
from enum import StrEnum


class StopReason(StrEnum):
    """Why the engine ended a request."""

    STOP = "stop"  # an end-of-turn token, a stop id, or the grammar is complete
    LENGTH = "length"  # max_tokens or the context
    CANCELLED = "cancelled"
    FAILED = "failed"  # `RequestOutput.error` says why


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn; every default is neutral. Stop strings are the shell's business."""

    seed: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 256
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    """Includes the model's end-of-turn ids, unless the client set `ignore_eos`."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    """How many alternatives to report for each token; None reports no log-probabilities at all."""
    prompt_lookup: bool = False
    """Whether the engine may guess tokens from the context to compute several at once. What is drawn is the same."""


BACKGROUND = 2**31
"""Priority of requests for whose output nobody waits. They run when no other request can use what they use: one that
does not decode yet is preempted for any other's slot or blocks. They do not count as returns of their sessions."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A session's pause, as its client announced it."""

    seconds_ago: float
    """When it began, before the request that names it."""
    expect_seconds: float
    """How long it was expected to last from then on."""
    tool: str = ""
    """Tool that the client pauses for; empty if it named none."""


@dataclass(frozen=True, slots=True)
class Submit:
    """A request. `token_ids` is the whole context: log, step prompt and, after a failover, replayed output."""

    request_id: str
    token_ids: "array[int]"
    prompt_len: int
    """Where output begins in `token_ids`. Ids from there on are output of an earlier attempt: they count for
    penalties and grammar and are not generated again."""
    sampling: SamplingParams
    cache_key: bytes
    """Root of the block keys: HMAC(pool secret, tenant). Requests share blocks only under equal keys."""
    session: str | None = None
    """Session whose sequence is parked afterwards; None for one-shot work."""
    grammar: str | None = None
    """llguidance grammar, serialised; None leaves the output unconstrained."""
    priority: int = 0
    """Lower first."""
    role: str = ""
    """Role of the session in its pool, for the retention policy."""
    pause: Pause | None = None
    """Of a background request: the pause that the session goes on with when the request is over. It runs only in free
    blocks and those of what is worth less than the session's KV; without these it is cancelled."""

    @property
    def is_background(self) -> bool:
        return self.priority == BACKGROUND


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stops a request and frees its blocks within one iteration. Its session keeps its committed prefix."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Ends a request at `output_len` tokens, because a stop string is complete; later tokens are dropped."""

    request_id: str
    output_len: int


@dataclass(frozen=True, slots=True)
class Evict:
    """Drops a session's parked sequence, those of its blocks that no other sequence shares, and its copies in host
    memory that no other session has."""

    session: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Tells the retention policy that a session pauses. The session's next Submit ends the hold."""

    session: str
    expect_seconds: float
    """Seconds that the client expects to be away; 0 when it does not know."""
    tool: str = ""
    """Tool that the client pauses for; empty if it named none."""


EngineMessage = Submit | Cancel | Finish | Evict | Hold


TokenLogprob = tuple[float, tuple[tuple[int, float], ...]]
"""A token's log-probability, then (id, log-probability) of the most likely ones."""


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What one iteration produced for one request."""

    request_id: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each token, or none."""
    stop: StopReason | None = None
    """Set on the last output of a request."""
    cached_tokens: int | None = None
    """Set once, on the first output: tokens of the context found in the cache."""
    queue_seconds: float | None = None
    """Set with `cached_tokens`: time from Submit to the first admission."""
    gpu_seconds: float = 0.0
    """Set with `stop`: the request's share of its batches' time, times the ranks."""
    computed_tokens: int = 0
    """Set with `stop`: tokens, from the start, whose KV the request had then, found in the cache or computed."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Evicted:
    """KV of a session's parked sequence that went because another sequence needed room."""

    session: str
    tokens: int
    for_session: str = ""
    """Session that needed the room, under the same cache key; empty if its key is another one, or it has no session."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of the engine. Counters start at 0 with the engine."""

    running: int = 0
    waiting: int = 0
    held: int = 0
    blocks_free: int = 0
    blocks_cached: int = 0
    blocks_in_use: int = 0
    lookup_tokens: int = 0
    hit_tokens: int = 0
    generated_tokens: int = 0
    draft_tokens: int = 0
    """Tokens that were guessed and computed."""
    right_draft_tokens: int = 0
    """Those of them that were drawn, too."""
    prefilled_tokens: int = 0
    preemptions: int = 0
    batches: int = 0
    prefill_rate: float = 0.0
    """Tokens per second over the last prefills; 0 until known."""
    decode_rate: float = 0.0
    """Tokens per second of one running request; 0 until known."""
    host_blocks: int = 0
    """Blocks that host memory has a copy of."""
    offloaded_blocks: int = 0
    displaced_blocks: int = 0
    """Copies that left host memory for others."""
    restored_blocks: int = 0
    discarded_blocks: int = 0
    """Blocks that left the device without a copy, since a copy would have taken longer than computing them again."""
    corrupted_blocks: int = 0
    """Copies that were not what had been put there. They were dropped, and the blocks computed again."""
    restore_rate: float = 0.0
    """Tokens per second, from host memory; 0 until known."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Everything that one iteration has to report."""

    outputs: tuple[RequestOutput, ...] = ()
    parked: tuple[tuple[str, int], ...] = ()
    """Sessions whose parked sequence changed: (session, tokens whose KV is cached)."""
    dropped: tuple[tuple[str, int], ...] = ()
    """Sessions that lost their parked sequence: (session, tokens dropped). Applied before `parked`.

    Each Evict is answered by an entry, which counts tokens in host memory, too; with 0 tokens when nothing was cached.
    """
    evicted: tuple[Evicted, ...] = ()
    """What parked sequences lost to others, whether all of it or their ends; in order. Applied with `dropped`."""
    stats: EngineStats = field(default_factory=EngineStats)
    warm: tuple[tuple[str, int], ...] = ()
    """Sessions whose tokens that are cached behind those parked, in host memory mostly, changed in number. Applied
    with `dropped` and `parked`."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine reports once, when it is ready."""

    capacity_tokens: int
    block_tokens: int
    num_blocks: int
    bytes_per_block: int
    vocab_size: int
    context_tokens: int
    device: str
    host_slots: int = 0
    """Blocks that host memory holds."""
