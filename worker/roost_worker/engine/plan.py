"""The seam between the scheduler (pure) and the model runner (torch): one plan in, one result out.

A plan is broadcast to every rank, so it is small, picklable and has everything that a rank cannot know by itself.
"""

from array import array
from dataclasses import dataclass, field
from typing import Protocol

from roost_worker.engine.messages import SamplingParams

DRAWN = -1
"""In a step that is begun ahead: the token that the step before draws for the chunk's slot."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence to run through the model in this batch."""

    slot: int
    """The sequence's row in per-sequence state (sampling parameters, output counts, grammar)."""
    token_ids: "array[int]"
    """Or, in a step that is begun ahead, `DRAWN` alone."""
    start: int
    """Position of the first of `token_ids`; KV of all positions before it is in the blocks."""
    block_ids: "array[int]"
    """Blocks that cover positions 0 .. start + len(token_ids) - 1, in order; never the null block, 0."""
    sample: bool
    """Whether to draw a token after the last of `token_ids`."""
    drafts: int = 0
    """How many of `token_ids`, the last ones, are guesses. A token is drawn before each of them, too, as long as the
    guesses are what is drawn; what is computed of others is not used and written again."""

    @property
    def guesses(self) -> "array[int]":
        """The last `drafts` of `token_ids`."""
        return self.token_ids[len(self.token_ids) - self.drafts :]

    @property
    def draws(self) -> int:
        """How many tokens are drawn at most."""
        return 1 + self.drafts if self.sample else 0

    @property
    def awaits_draw(self) -> bool:
        """Whether its token is the one that the step before draws."""
        return self.token_ids[0] == DRAWN


@dataclass(frozen=True, slots=True)
class NewSlot:
    """What the sampler needs of a sequence that takes a slot. Rank 0 keeps it until the slot is freed or reused."""

    slot: int
    sampling: SamplingParams
    context: "array[int]"
    """Prompt ids (log and step prompt), for the repetition penalty."""
    output: "array[int]"
    """Output ids so far (replayed, or kept across a preemption), for penalties and grammar."""
    grammar: str | None = None


@dataclass(frozen=True, slots=True)
class HostCopy:
    """A block to copy between the KV pool and a slot of host memory. Each rank copies its own part."""

    block: int
    slot: int
    restore: bool = False
    """From host memory to the pool; otherwise the other way."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """One mixed batch: chunks of sequences that decode first, then those of prefill."""

    chunks: tuple[Chunk, ...]
    new_slots: tuple[NewSlot, ...] = ()
    freed_slots: tuple[int, ...] = ()
    """Freed before `new_slots` are taken: a slot may be in both."""
    copies: tuple[HostCopy, ...] = ()
    """Made in this order, before the chunks write: a block or slot that one copy empties may be filled by a later one.
    No chunk has a block that is restored."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """Tokens drawn for a slot, at least the first of them."""

    slot: int
    token_id: int
    """-1 when nothing was drawn because the replayed output completes the grammar already (see `grammar_done`)."""
    grammar_done: bool = False
    """Whether the grammar is complete: the request stops here."""
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    error: str = ""
    """Why the slot's grammar failed; the request fails then, the others go on."""
    following: tuple[int, ...] = ()
    """Tokens after this one: drawn after a guess that was right, or the only one that the grammar allows in its place.
    `grammar_done` is about the last. Empty when log-probabilities are reported, which are those of `token_id`."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Tokens drawn, in the order of the plan's chunks that sample."""

    sampled: tuple[Sampled, ...]
    seconds: float = 0.0
    """Time without that of the copies."""
    intact: tuple[bool, ...] = ()
    """For each restore of the plan, in order: whether every rank read back what it had put there."""
    copy_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """What a runner reports about the model that it loaded."""

    num_blocks: int
    """Blocks in the KV pool, including the null block."""
    block_tokens: int
    bytes_per_block: int
    vocab_size: int
    context_tokens: int
    eos_token_ids: tuple[int, ...] = field(default=())
    device: str = "cpu"
    host_slots: int = 0
    """Blocks that host memory holds."""
    ranks: int = 1
    """Devices that run each plan together."""
    pair_cost: float = 0.0
    """What it costs to attend to one token of context, as a share of what a token costs without any."""


class RunningBatch(Protocol):
    """A batch that was begun."""

    def result(self) -> BatchResult:
        """Wait for it, and return what `Runner.run` would have. Call it once, in the order in which batches began."""
        ...


class Runner(Protocol):
    """Runs plans. Rank 0's runner broadcasts each plan to its followers before it runs it."""

    @property
    def info(self) -> RunnerInfo: ...

    def check_grammar(self, grammar: str) -> str:
        """Compile a grammar, off the engine loop; return why it is refused, or an empty string."""
        ...

    def run(self, plan: BatchPlan) -> BatchResult:
        """Run one plan. Raise RuntimeError when the group of ranks is broken; the worker then exits.

        No batch that was begun is under way.
        """
        ...

    def begin(self, plan: BatchPlan) -> RunningBatch | None:
        """Begin a decode step without waiting for its tokens, so that the next can be begun with these as `DRAWN`.

        Return None when that is not possible or would save nothing. Then call `run` instead; a plan with `DRAWN` is
        dropped.
        """
        ...

    def close(self) -> None:
        """End the followers and free memory."""
        ...
