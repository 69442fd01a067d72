"""What `roost model show` says of a prepared model."""

import json

from roost_worker.convert.layout import PreparedModel
from roost_worker.model.config import parse_config
from roost_worker.render.description import SAMPLING_FIELDS, TemplateDescription
from roost_worker.render.errors import RenderError
from roost_worker.render.fidelity import find_limits
from roost_worker.render.renderer import Renderer


def describe(model: PreparedModel) -> list[tuple[str, str]]:
    """Return what the model is, what its steps take for sampling fields that they leave unset, and its limits, as pairs
    of a name and a value."""
    document = json.loads((model.path / "config.json").read_bytes())
    decoder = parse_config(document)
    template = TemplateDescription.load(model.path / "template.json")
    return [
        ("source", model.source),
        ("revision", model.revision),
        ("in int8", model.revision_in("int8", "auto")),
        ("KV in int8", model.revision_in("none", "int8")),
        ("both in int8", model.revision_in("int8", "int8")),
        ("folder", str(model.path)),
        ("dtype", model.dtype),
        ("model type", document["model_type"]),
        ("layers", str(decoder.num_layers)),
        ("context", f"{min(decoder.max_positions, decoder.sliding_window or decoder.max_positions)} tokens at most"),
        ("rope", (document["rope_scaling"] or {}).get("rope_type", "default")),
        ("turn format", template.format or "chosen when the model is loaded"),
        ("sampling", _sampling(template)),
        *_limits(model),
    ]


def _sampling(template: TemplateDescription) -> str:
    given = (f"{name} {template.sampling[name]:g}" for name in SAMPLING_FIELDS if name in template.sampling)
    return ", ".join(given) or "none: temperature 0"


def _limits(model: PreparedModel) -> list[tuple[str, str]]:
    try:
        limits = find_limits(Renderer.from_dir(model.path))
    except RenderError as error:
        return [("refused", str(error))]
    return [("limit", str(limit)) for limit in limits] or [("limits", "none")]
