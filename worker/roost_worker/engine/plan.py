"""The seam between the scheduler (pure) and the model runner (torch): one plan in, one result out.

A plan is broadcast to every rank as it is, so it is small, picklable and holds all that a rank cannot know.
"""

from array import array
from dataclasses import dataclass, field
from typing import Protocol

from roost_worker.engine.messages import SamplingParams


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence to run through the model in this step."""

    slot: int
    """The sequence's row in per-sequence state (sampling parameters, output counts, grammar)."""
    token_ids: "array[int]"
    start: int
    """Position of the first of `token_ids`; KV of all positions before it is in the blocks."""
    block_ids: "array[int]"
    """Blocks that cover positions 0 .. start + len(token_ids) - 1, in order. Block 0 is the null block, never here."""
    sample: bool
    """Whether a token is to be drawn after the last of `token_ids`."""


@dataclass(frozen=True, slots=True)
class NewSlot:
    """A sequence that takes a slot: what its sampler needs. Rank 0 keeps it until the slot is freed or taken."""

    slot: int
    sampling: SamplingParams
    context: "array[int]"
    """Prompt ids (log and step prompt), for the repetition penalty."""
    output: "array[int]"
    """Output ids so far (replayed, or kept over a preemption), consumed by penalties and grammar."""
    grammar: str | None = None


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One mixed batch: decode rows first, then prefill chunks."""

    chunks: tuple[Chunk, ...]
    new_slots: tuple[NewSlot, ...] = ()
    freed_slots: tuple[int, ...] = ()
    """Freed before `new_slots` are taken: a slot may be in both."""
    copies: tuple[tuple[int, int], ...] = ()
    """Block copies (from, to) to make before the batch runs."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token drawn for a slot."""

    slot: int
    token_id: int
    """-1 with `grammar_done`: nothing was drawn, because the replayed output completes the grammar already."""
    grammar_done: bool = False
    """Whether the grammar allows nothing after this token: the request stops here."""
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    error: str = ""
    """Set when the slot's grammar failed; the request fails, the others go on."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Tokens drawn, in the order of the plan's sampling chunks."""

    sampled: tuple[Sampled, ...]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """What a runner says of the model it loaded."""

    num_blocks: int
    """Blocks in the KV pool, the null block included."""
    block_tokens: int
    bytes_per_block: int
    vocab_size: int
    context_tokens: int
    eos_token_ids: tuple[int, ...] = field(default=())
    device: str = "cpu"


class Runner(Protocol):
    """Runs plans. Rank 0's runner broadcasts each plan to its followers before it runs it."""

    @property
    def info(self) -> RunnerInfo: ...

    def check_grammar(self, grammar: str) -> str:
        """Compiles a grammar off the engine loop; returns why it is refused, or an empty string."""
        ...

    def run(self, plan: StepPlan) -> StepResult:
        """Runs one plan. Raises RuntimeError when the group is broken; the worker then exits."""
        ...

    def close(self) -> None:
        """Ends followers and frees memory."""
        ...
