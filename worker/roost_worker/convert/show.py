"""What `roost model show` says of a prepared model."""

import json

from roost_worker.convert.layout import PreparedModel
from roost_worker.model.config import parse_config
from roost_worker.render.description import SAMPLING_FIELDS, TemplateDescription


def describe(model: PreparedModel) -> list[tuple[str, str]]:
    """Return what the model is, and what its steps take for sampling fields that they leave unset: (name, value)."""
    document = json.loads((model.path / "config.json").read_bytes())
    decoder = parse_config(document)
    template = TemplateDescription.load(model.path / "template.json")
    return [
        ("source", model.source),
        ("revision", model.revision),
        ("folder", str(model.path)),
        ("dtype", model.dtype),
        ("model type", document["model_type"]),
        ("layers", str(decoder.num_layers)),
        ("context", f"{min(decoder.max_positions, decoder.sliding_window or decoder.max_positions)} tokens at most"),
        ("rope", (document["rope_scaling"] or {}).get("rope_type", "default")),
        ("turn format", template.format or "chosen when the model is loaded"),
        ("sampling", _sampling(template)),
    ]


def _sampling(template: TemplateDescription) -> str:
    given = (f"{name} {template.sampling[name]:g}" for name in SAMPLING_FIELDS if name in template.sampling)
    return ", ".join(given) or "none: temperature 0"
