"""What grammars allow, seen through the dummy model's tokenizer, whose ids are the bytes of its text."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roost_worker.convert.store import ModelStore
from roost_worker.grammar import GrammarCompiler, GrammarError, GrammarState, fill_masks

EOS = (258, 256)
VOCABULARY = 264


@dataclass(frozen=True)
class Tool:
    name: str
    parameters_json: str


def dummy_compiler(folder: Path) -> GrammarCompiler:
    model_dir = ModelStore(folder).prepare("dummy://llama-tiny", "float32").path
    return GrammarCompiler(model_dir / "tokenizer.json", EOS, VOCABULARY)


def allowed_ids(state: GrammarState | None) -> set[int]:
    """The ids that may come next."""
    out = np.zeros((1, 9), dtype=np.int32)
    fill_masks([state], out)
    bits = np.unpackbits(out.view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits[:VOCABULARY]).tolist())


def accepts(compiler: GrammarCompiler, grammar: str, text: str) -> bool:
    """Whether the grammar allows `text`, and may end there."""
    state = compiler.start(grammar)
    try:
        state.consume(text.encode())
    except GrammarError:
        return False
    return state.done or EOS[0] in allowed_ids(state)
