"""How many steps of the engine a required tool call takes, with its forced tokens drawn and without.

    .venv/bin/python tests/benchmarks/bench_forced_tokens.py
    .venv/bin/python tests/benchmarks/bench_forced_tokens.py --clients codex claude-code --max-tokens 256

SmolLM2 in float32 (converted at first use) is asked a question and must call one of the tools that a recorded agent
client sent (`tests/gateway/wire`); of equal lists of tools only one is used. Both arms get the same prompts and
parameters: greedy, and seeded at temperature 0.7. A step is one batch of the engine, which runs nothing else; a prompt
takes one. Steps are counted, not timed. A text that differs between the arms is an error. Small as it is, the model
sometimes writes on until `--max-tokens` cut its call off; such calls are summed apart. The last line of stdout is one
JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("proto", "worker", "tests/support")]

from figures import emit, machine

from required_calls import SMOLLM2, CallingEngine
from roost_worker.config import EngineConfig
from roost_worker.convert.store import ModelStore
from roost_worker.engine.messages import SamplingParams
from roost_worker.render.messages import Tool
from wire_tools import tool_lists

QUESTION = "Read a.txt and b.txt and say what they have in common."
SAMPLINGS = {"greedy": {}, "seeded": {"seed": 1, "temperature": 0.7}}


def compare(drawing: CallingEngine, forcing: CallingEngine, tools: tuple[Tool, ...], sampling: SamplingParams) -> Any:
    """One call in both arms, as a row of the table."""
    drawn, forced = (engine.call(tools, QUESTION, sampling) for engine in (drawing, forcing))
    if drawn.ids != forced.ids:
        raise RuntimeError(f"two texts:\n{drawing.text(drawn)}\n{forcing.text(forced)}")
    return {
        "tools": len(tools),
        "prompt_tokens": drawn.prompt_tokens,
        "tokens": len(drawn.ids),
        "whole": len(drawn.ids) < sampling.max_tokens,
        "steps_drawn": drawn.batches,
        "steps_forced": forced.batches,
        "ratio": round(forced.batches / drawn.batches, 3),
        "text": drawing.text(drawn),
    }


def summed(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The steps of several calls together, and the least and the greatest ratio of one."""
    drawn, forced = (sum(row[name] for row in rows) for name in ("steps_drawn", "steps_forced"))
    ratios = [row["ratio"] for row in rows]
    return {
        "calls": len(rows),
        "steps_drawn": drawn,
        "steps_forced": forced,
        "ratio": round(forced / max(1, drawn), 3),
        "lowest": min(ratios, default=0.0),
        "highest": max(ratios, default=0.0),
    }


def main() -> None:
    lists = tool_lists()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", default=list(lists), choices=list(lists), metavar="CLIENT")
    parser.add_argument("--max-tokens", type=int, default=160)
    arguments = parser.parse_args()
    folder = ModelStore().prepare(SMOLLM2, "float32").path
    drawing, forcing = CallingEngine(folder, 0), CallingEngine(folder)
    rows: list[dict[str, Any]] = []
    for client in arguments.clients:
        for name, fields in SAMPLINGS.items():
            sampling = SamplingParams(max_tokens=arguments.max_tokens, **fields)
            row = {"client": client, "sampling": name, **compare(drawing, forcing, lists[client], sampling)}
            rows.append(row)
            steps = f"{row['steps_drawn']:4} and {row['steps_forced']:3} steps, {row['ratio']:.3f}"
            print(f"{client:24} {name:6} {row['tokens']:4} tokens, {steps}")
            print("   ", repr(row["text"]), flush=True)
    emit(
        {
            "benchmark": "forced_tokens",
            "machine": machine(),
            "max_forced_tokens": EngineConfig().max_forced_tokens,
            "whole": summed([row for row in rows if row["whole"]]),
            "cut_off": summed([row for row in rows if not row["whole"]]),
            "calls": rows,
        }
    )


if __name__ == "__main__":
    main()
