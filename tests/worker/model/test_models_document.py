"""docs/models.md says what the code can run."""

import re
from pathlib import Path

import family_models
from roost_worker.model.architectures import ARCHITECTURES, Architecture
from roost_worker.model.rope import ROPE_TYPES
from roost_worker.render.formats import FORMATS, TurnFormat, WrittenCall

DOCUMENT = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
BIASES = {"never": "no", "query_key_value": "queries, keys, values", "by_key": "`attention_bias`"}
WINDOWS = {
    "never": "no",
    "all_layers": "all layers",
    "by_layer": "by `layer_types`",
    "by_switch": "`use_sliding_window`",
}


def _row(model_type: str, architecture: Architecture) -> str:
    cells = (
        f"`{model_type}`",
        f"`{architecture.class_name}`",
        BIASES[architecture.attention_bias],
        "`mlp_bias`" if architecture.mlp_bias else "no",
        "yes" if architecture.query_key_norm else "no",
        "`no_rope_layers`" if architecture.unrotated_layers else "no",
        WINDOWS[architecture.window],
    )
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    return "`" + text.replace("\n", "\\n").replace("|", "\\|") + "`"


def _format_rows(known: TurnFormat) -> list[str]:
    thinking = f"{_code(known.thinking.open)} {_code(known.thinking.close)}" if known.thinking else "no"
    cells = (
        _code(known.name),
        " ".join(map(_code, known.tokens[:2])) or "of the model's own template",
        _code(known.calls.write([WrittenCall("f", "{}", "id" if known.call_ids.written else "")])),
        thinking,
        "Mistral's" if known.call_ids.written else "ours",
        _verified(known),
    )
    return [f"| {' | '.join((family, *cells))} |" for family in known.families]


def _verified(known: TurnFormat) -> str:
    files = ["test_tool_calls.py", *(["test_histories.py"] if known.turns else [])]
    files += [f"templates/{name}.jinja" for name in family_models.NAMES if family_models.renderer(name).format == known]
    files += ["test_real_model.py"] if known.name == "smollm2" else []
    return ", ".join(map(_code, files))


def _rows(title: str) -> list[str]:
    section = DOCUMENT.split(f"## {title}\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def test_the_table_of_architectures_is_the_codes() -> None:
    assert _rows("Architectures") == [_row(*item) for item in ARCHITECTURES.items()]


def test_the_table_of_formats_is_the_codes() -> None:
    rows = sorted(row for known in FORMATS for row in _format_rows(known))
    assert _rows("Turns and tool calls") == rows, "\n".join(rows)


def test_the_table_of_rope_has_every_type() -> None:
    assert [re.findall(r"`(\w+)`", row)[0] for row in _rows("Rope")] == list(ROPE_TYPES)
