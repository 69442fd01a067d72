"""A runner without a model whose every token depends on all tokens before it, read back through its own paged memory.

It stores token ids where a real runner stores KV, `memory[block][offset]`, and draws the next token from a hash of the
whole context as it finds it there. Any fault in paging, sharing, preemption or copying changes the output.
`reference` computes the same without pages.
"""

import hashlib
import os
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from roost_worker.config import WorkerConfig
from roost_worker.engine.messages import SamplingParams
from roost_worker.engine.plan import BatchPlan, BatchResult, Chunk, NewSlot, RunnerInfo, Sampled

VOCAB = 50
EMPTY = -1
COPYING = 2
"""With this seed or a greater one, most tokens are what followed the last id before, and the others are copied, too."""


def next_token(context: Sequence[int], seed: int) -> int:
    """The token that follows `context`."""
    digest = hashlib.blake2b(array("i", context).tobytes(), digest_size=4, key=seed.to_bytes(4, "big")).digest()
    word = int.from_bytes(digest, "big")
    if seed < COPYING:
        return word % VOCAB
    followers = [context[place] for place in range(1, len(context)) if context[place - 1] == context[-1]]
    return followers[-1] if word % 12 and followers else context[word // 12 % len(context)]


def reference(context: Sequence[int], prompt_len: int, sampling: SamplingParams, limit: int) -> list[int]:
    """Output ids, replayed ones included, of a request that is neither cancelled nor finished early."""
    ids = list(context)
    while not _stopped(ids, prompt_len, sampling, limit):
        ids.append(next_token(ids, sampling.seed))
    return ids[prompt_len:]


def _stopped(ids: list[int], prompt_len: int, sampling: SamplingParams, limit: int) -> bool:
    count = len(ids) - prompt_len
    if count > sampling.min_tokens and ids[-1] in sampling.stop_token_ids:
        return True
    return count >= sampling.max_tokens or len(ids) >= limit


class PagedFakeRunner:
    """Implements `roost_worker.engine.plan.Runner`. Grammars are words: `refuse:WHY`, `tokens:N`, `break:N`,
    `force:N`.

    `tokens:N` is complete after N output tokens, `break:N` fails when the N-th is to be drawn, `die` breaks the runner,
    `force:N` forces up to N tokens after each that is drawn.
    """

    def __init__(
        self,
        num_blocks: int,
        block_tokens: int,
        context_tokens: int,
        max_batch_tokens: int = 1 << 30,
        host_slots: int = 0,
        *,
        ahead: bool = False,
    ) -> None:
        """`ahead`: steps whose draws need nothing but a seed can be begun, and are computed as late as they may be."""
        self.info = RunnerInfo(num_blocks, block_tokens, 1, VOCAB, context_tokens, (0,), host_slots=host_slots)
        self.host = [array("i", [EMPTY] * block_tokens) for _ in range(host_slots)]
        self.corrupted: set[int] = set()
        """Slots whose copies are found to be corrupted when they are restored."""
        self.seconds, self.copy_seconds = 0.01, 0.001
        """Times of each batch and of each copy."""
        self.memory = [array("i", [EMPTY] * block_tokens) for _ in range(num_blocks)]
        self.slots: dict[int, NewSlot] = {}
        self.outputs: dict[int, list[int]] = {}
        self.plans: list[BatchPlan] = []
        self.closed = False
        self.begun: list[RunningStep] = []
        """Steps that were begun and are not computed, in order."""
        self._ahead = ahead
        self._max_batch_tokens = max_batch_tokens

    def check_grammar(self, grammar: str) -> str:
        word, _, value = grammar.partition(":")
        return value if word == "refuse" else ""

    def run(self, plan: BatchPlan) -> BatchResult:
        assert not self.begun, "a batch that was begun is under way"
        self.plans.append(plan)
        return self.compute(plan)

    def begin(self, plan: BatchPlan) -> "RunningStep | None":
        if not self._ahead or plan.copies or plan.new_slots or not all(map(self._is_plain, plan.chunks)):
            assert not any(chunk.awaits_draw for chunk in plan.chunks), "a step ahead of none"
            return None
        self.plans.append(plan)
        self.begun.append(RunningStep(self, plan))
        assert len(self.begun) <= 2, "more than one step ahead"
        return self.begun[-1]

    def _is_plain(self, chunk: Chunk) -> bool:
        new = self.slots[chunk.slot]
        simple = new.grammar is None and new.sampling.logprobs is None
        return simple and chunk.sample and len(chunk.token_ids) == 1

    def compute(self, plan: BatchPlan) -> BatchResult:
        """Computes a plan whose tokens, or those drawn before it, are all known."""
        assert sum(len(chunk.token_ids) for chunk in plan.chunks) <= self._max_batch_tokens, "the batch is too big"
        for slot in plan.freed_slots:
            del self.slots[slot]
        for new in plan.new_slots:
            self.slots[new.slot] = new
            self.outputs[new.slot] = list(new.output)
        intact = self._copy_all(plan)
        chunks = tuple(map(self._resolved, plan.chunks))
        self._store(chunks)
        sampled = tuple(self._sample(chunk) for chunk in chunks if chunk.sample)
        return BatchResult(sampled, self.seconds, intact, self.copy_seconds * len(plan.copies))

    def close(self) -> None:
        self.closed = True

    def _resolved(self, chunk: Chunk) -> Chunk:
        """The chunk with the token that its slot drew last, if it is to have that."""
        drawn = array("i", self.outputs[chunk.slot][-1:])
        return replace(chunk, token_ids=drawn) if chunk.awaits_draw else chunk

    def _copy_all(self, plan: BatchPlan) -> tuple[bool, ...]:
        """Makes the plan's copies. A corrupted one fills its block with ids that no request has."""
        intact: list[bool] = []
        for copy in plan.copies:
            assert copy.block != 0, "the null block is copied"
            if not copy.restore:
                self.host[copy.slot] = self.memory[copy.block][:]
                self.corrupted.discard(copy.slot)
                continue
            assert EMPTY not in self.host[copy.slot], "an empty slot is restored"
            good = copy.slot not in self.corrupted
            intact.append(good)
            self.memory[copy.block] = self.host[copy.slot][:] if good else array("i", [VOCAB] * self.info.block_tokens)
        restored = {copy.block for copy in plan.copies if copy.restore}
        assert all(restored.isdisjoint(chunk.block_ids) for chunk in plan.chunks), "a block is restored and computed"
        return tuple(intact)

    def _store(self, chunks: tuple[Chunk, ...]) -> None:
        """Writes all rows before any is read, as a layer does; a block written by two rows is a fault."""
        written: set[tuple[int, int]] = set()
        size = self.info.block_tokens
        for chunk in chunks:
            assert chunk.token_ids, "an empty chunk"
            assert len(chunk.block_ids) == -(-(chunk.start + len(chunk.token_ids)) // size), "blocks do not fit"
            for position, token in enumerate(chunk.token_ids, chunk.start):
                place = (chunk.block_ids[position // size], position % size)
                assert place[0] != 0, "the null block is written"
                assert place not in written, "two rows write one place"
                written.add(place)
                self.memory[place[0]][place[1]] = token

    def context(self, chunk: Chunk) -> list[int]:
        """Ids of all positions up to the chunk's end, read from memory."""
        ids = [token for block in chunk.block_ids for token in self.memory[block]]
        return ids[: chunk.start + len(chunk.token_ids)]

    def _sample(self, chunk: Chunk) -> Sampled:
        new, output = self.slots[chunk.slot], self.outputs[chunk.slot]
        word, _, value = (new.grammar or "").partition(":")
        if word == "die":
            raise RuntimeError("the group is broken")
        if _complete(word, value, output):
            return Sampled(chunk.slot, -1, grammar_done=True)
        if word == "break" and len(output) + 1 >= int(value):
            return Sampled(chunk.slot, -1, error="the grammar broke")
        computed = self.context(chunk)
        context = computed[: len(computed) - chunk.drafts]
        assert context == list(new.context) + output, "the sampler's state is not the context"
        while context == computed[: len(context)] and not _complete(word, value, output):
            output.append(next_token(context, new.sampling.seed))
            if word == "force":
                for _ in range(output[-1] % (int(value) + 1)):
                    output.append(next_token([*new.context, *output], new.sampling.seed))
            context = [*new.context, *output]
        drawn, *following = output[len(computed) - chunk.drafts - len(new.context) :]
        done = _complete(word, value, output)
        return Sampled(chunk.slot, drawn, done, logprob=-1.0, top=((drawn, -1.0),), following=tuple(following))


@dataclass(frozen=True, eq=False)
class RunningStep:
    """Implements `roost_worker.engine.plan.RunningBatch`."""

    runner: PagedFakeRunner
    plan: BatchPlan

    def result(self) -> BatchResult:
        assert self.runner.begun.pop(0) is self, "results are taken in another order"
        return self.runner.compute(self.plan)


def _complete(word: str, value: str, output: Sequence[int]) -> bool:
    """Whether the grammar allows nothing after `output`."""
    return word == "tokens" and len(output) >= int(value)


def build_runner(
    config: WorkerConfig, model_dir: Path, *, rank: int = 0, world: int = 1, init_method: str | None = None
) -> PagedFakeRunner:
    """Stands in for `roost_worker.model.runner.build_runner`. `model.source` may ask for a fault.

    `fail-rank-N` raises, `exit-rank-N` exits and `hang-rank-N` never returns on that rank.
    """
    if config.model.source == f"fail-rank-{rank}":
        raise ValueError(f"tensor model.norm.weight is missing (rank {rank})")
    if config.model.source == f"exit-rank-{rank}":
        os._exit(3)
    if config.model.source == f"hang-rank-{rank}":
        time.sleep(3600)
    blocks = (config.kv.memory_bytes or 4096) // config.kv.block_tokens
    return PagedFakeRunner(blocks, config.kv.block_tokens, config.model.context_tokens)


def follow(runner: PagedFakeRunner) -> None:
    """Stands in for `roost_worker.model.runner.follow`: ends only with its process."""
    while not runner.closed:
        time.sleep(3600)
