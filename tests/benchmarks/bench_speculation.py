"""How many batches an engine takes when it guesses what sequences copy from their context, and without.

    .venv/bin/python tests/benchmarks/bench_speculation.py
    .venv/bin/python tests/benchmarks/bench_speculation.py --drafts 8 --max-tokens 256
    .venv/bin/python tests/benchmarks/bench_speculation.py --costs bfloat16

SmolLM2 in float32 (converted at first use) gets prompts of agents' shapes: a file to write again with a change, the
output of a tool to repeat, a call like an earlier one, under its grammar; and some of which little can be copied. Each
runs alone, greedy and seeded at temperature 0.7, and then all of them at once. Batches are counted, not timed; what
they take is reckoned in tokens by the costs in `roost_worker/engine/drafter.py`, first prompts left out. Ids that
differ between the arms are an error. `--costs` measures instead what batches of drafts take: the least of 25 times, in
ms, by rows and tokens of each. The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("proto", "worker", "tests/support")]

from figures import emit, machine

from engine_driver import InlineExecutor
from required_calls import CONTEXT, SMOLLM2
from roost_worker.config import DTYPES, EngineConfig, KvConfig, ModelConfig, WorkerConfig
from roost_worker.convert.store import ModelStore
from roost_worker.engine.drafter import BATCH_TOKENS, ROW_TOKENS, draft_cost
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import EngineStats, SamplingParams, Submit
from roost_worker.engine.plan import BatchPlan, BatchResult, Chunk, NewSlot, Runner
from roost_worker.grammar import build_tool_call
from roost_worker.model.runner import build_runner
from roost_worker.render.messages import Message, Tool, ToolCall
from roost_worker.render.renderer import Renderer

SAMPLINGS = {"greedy": {}, "seeded": {"seed": 1, "temperature": 0.7}}
SOURCE = """\
def read_rows(path, limit):
    rows = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number >= limit:
                break
            name, city, amount = line.rstrip("\\n").split(",")
            rows.append({"name": name, "city": city, "amount": float(amount)})
    return rows


def largest(rows, count):
    return sorted(rows, key=lambda row: row["amount"], reverse=True)[:count]
"""
LISTING = "".join(
    f"-rw-r--r-- 1 agent agent {size:6} Nov 30 09:{size % 60:02} src/{name}.py\n"
    for name, size in (
        ("reader", 4211),
        ("writer", 3907),
        ("parser", 12877),
        ("errors", 902),
        ("cli", 5530),
        ("store", 7781),
    )
)
READ = Tool(
    "read_file",
    "Reads a file.",
    '{"properties": {"path": {"type": "string"}, "encoding": {"enum": ["utf-8", "latin-1"]}, '
    '"first_line": {"type": "integer"}}, "required": ["path", "encoding", "first_line"], '
    '"additionalProperties": false}',
)
EARLIER_CALL = ToolCall("1", "read_file", '{"path": "src/reader.py", "encoding": "utf-8", "first_line": 1}')
COPYING = {
    "file written again": [
        Message("user", f"This is a file:\n{SOURCE}\nWrite all of it again, with count renamed to n.")
    ],
    "output repeated": [Message("user", f"This is the output of ls -l src:\n{LISTING}\nRepeat the output as it is.")],
    "call like an earlier one": [
        Message("user", "Read src/reader.py."),
        Message("assistant", tool_calls=(EARLIER_CALL,)),
        Message("tool", SOURCE, tool_call_id="1"),
        Message("user", "Now read src/writer.py."),
    ],
}
OTHERS = {
    "story": [Message("user", "Tell a story about a robot that learns to paint.")],
    "explanation": [Message("user", "Explain how rain forms, to somebody who is ten years old.")],
    "question about a file": [Message("user", f"This is a file:\n{SOURCE}\nWhat may go wrong when it runs?")],
}


CASES = [(1, 1), (1, 2), (1, 5), (1, 17), (4, 1), (4, 2), (4, 5), (8, 1), (8, 2), (8, 5)]
"""Rows and tokens of each, whose times give the costs in `drafter.py`."""
COST_CONTEXT = 1024


class ReckoningRunner:
    """A runner that reckons what its batches of decoding sequences take, in tokens."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.info, self.check_grammar, self.close = runner.info, runner.check_grammar, runner.close
        self.taken = 0.0

    def run(self, plan: BatchPlan) -> BatchResult:
        if plan.chunks and not plan.new_slots:
            drafts = [chunk.drafts for chunk in plan.chunks if chunk.drafts]
            self.taken += BATCH_TOKENS + ROW_TOKENS * len(plan.chunks) + sum(map(draft_cost, drafts))
        return self._runner.run(plan)

    def begin(self, plan: BatchPlan) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Answers:
    """What requests that ran together were answered."""

    ids: list[list[int]]
    stats: EngineStats
    taken: float


class Arm:
    """Runs requests on an engine of their own."""

    def __init__(self, runner: Runner, drafts: int) -> None:
        self._runner = runner
        self._drafts = drafts

    def run(self, requests: Sequence[Submit]) -> Answers:
        runner = ReckoningRunner(self._runner)
        config = EngineConfig(len(requests), CONTEXT, max_draft_tokens=self._drafts)
        engine = Engine(runner, config, CONTEXT, grammar_pool=InlineExecutor())
        ids: dict[str, list[int]] = {request.request_id: [] for request in requests}
        for request in requests:
            engine.handle(request)
        while outputs := engine.iterate():
            for output in outputs.outputs:
                if output.error:
                    raise RuntimeError(output.error)
                ids[output.request_id] += output.token_ids
        return Answers([*ids.values()], engine.stats, runner.taken)


def compare(single: Arm, guessing: Arm, requests: Sequence[Submit]) -> dict[str, Any]:
    """Some requests in both arms, as a row of the table."""
    without, guessed = single.run(requests), guessing.run(requests)
    if without.ids != guessed.ids:
        raise RuntimeError(f"the arms' ids differ: {without.ids} and {guessed.ids}")
    stats = guessed.stats
    return {
        "tokens": stats.generated_tokens,
        "batches": without.stats.batches,
        "batches_guessing": stats.batches,
        "ratio": round(stats.batches / without.stats.batches, 3),
        "guessed": stats.draft_tokens,
        "right": stats.right_draft_tokens,
        "reckoned_ratio": round(guessed.taken / max(1.0, without.taken), 3),
    }


def costs(runner: Runner) -> dict[str, float]:
    """What a batch takes of so many rows and tokens of each, in ms."""
    size, least = runner.info.block_tokens, dict.fromkeys(CASES, float("inf"))
    per_row = (COST_CONTEXT + 32) // size + 1

    def plan(rows: int, tokens: int) -> BatchPlan:
        blocks = [array("i", range(1 + row * per_row, 1 + (row + 1) * per_row)) for row in range(rows)]
        needed = -(-(COST_CONTEXT + tokens) // size)
        ids = array("i", range(tokens))
        return BatchPlan(
            tuple(
                Chunk(row, ids, COST_CONTEXT, blocks[row][:needed], sample=True, drafts=tokens - 1)
                for row in range(rows)
            )
        )

    empty = array("I")
    runner.run(BatchPlan((), tuple(NewSlot(row, SamplingParams(), empty, empty) for row in range(8))))
    for _ in range(25):
        for case in CASES:
            least[case] = min(least[case], 1000 * runner.run(plan(*case)).seconds)
    return {f"{rows}x{tokens}": round(milliseconds, 1) for (rows, tokens), milliseconds in least.items()}


def show(row: dict[str, Any]) -> None:
    batches = f"{row['batches']:4} and {row['batches_guessing']:4} batches, {row['ratio']:.3f}"
    guesses = f"{row['right']:3} of {row['guessed']:3} guesses right"
    print(
        f"{row['work']:26} {row['sampling']:6} {row['tokens']:5} tokens, {batches}; {guesses}; "
        f"reckoned {row['reckoned_ratio']:.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drafts", type=int, default=16, help="most tokens that are guessed at once")
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--costs", choices=DTYPES, help="measure the costs in this type, and nothing else")
    arguments = parser.parse_args()
    folder = ModelStore().prepare(SMOLLM2, "float32").path
    renderer = Renderer.from_dir(folder)
    model = ModelConfig("model", SMOLLM2, arguments.costs or "float32", 1, CONTEXT)
    runner = build_runner(WorkerConfig("test/guesses", model, KvConfig(memory_bytes=768 << 20)), folder)
    if arguments.costs:
        emit({"benchmark": "speculation costs", "machine": machine(), "milliseconds": costs(runner)})
        return
    single, guessing = Arm(runner, 0), Arm(runner, arguments.drafts)

    def submit(work: str, sampling: SamplingParams) -> Submit:
        messages = {**COPYING, **OTHERS}[work]
        is_call = messages[-1].content.startswith("Now read")
        prompt = renderer.render_step(messages=messages, tools=(READ,) if is_call else ())
        grammar = build_tool_call((READ,), "", renderer.call_wrapper) if is_call else None
        return Submit(work, array("I", prompt), len(prompt), sampling, b"tenant", None, grammar)

    rows: list[dict[str, Any]] = []
    for name, fields in SAMPLINGS.items():
        sampling = SamplingParams(
            prompt_lookup=True,
            max_tokens=arguments.max_tokens,
            stop_token_ids=frozenset(renderer.eos_token_ids),
            **fields,
        )
        for kind, works in (("copying", COPYING), ("other", OTHERS)):
            for work in works:
                row = compare(single, guessing, [submit(work, sampling)])
                rows.append({"kind": kind, "work": work, "sampling": name, **row})
                show(rows[-1])
        row = compare(single, guessing, [submit(work, sampling) for work in (*COPYING, *OTHERS)])
        rows.append({"kind": "together", "work": "all at once", "sampling": name, **row})
        show(rows[-1])
    emit({"benchmark": "speculation", "machine": machine(), "max_draft_tokens": arguments.drafts, "rows": rows})


if __name__ == "__main__":
    main()
