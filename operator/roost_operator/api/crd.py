"""The custom resource definition of `AgentPool`, made from the typed spec: `python -m roost_operator.api.crd`.

Pure, apart from `write` and `stale`. The schema is structural: every field has a type, nothing is referred to.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from roost_operator.api.crd_rules import RULES
from roost_operator.api.crd_template import template_members
from roost_operator.api.spec import GROUP, KIND, VERSION, Spec
from roost_operator.api.status import Status

PLURAL = "agentpools"
FILE = Path("manifests") / "crds" / "agentpools.yaml"
Schema = dict[str, Any]

_KEPT = (
    "description",
    "enum",
    "format",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "pattern",
    "type",
)
_LABEL_LENGTH = re.compile(r"\{0,61\}")
_MAPS = {"spec.models": ["name"], "spec.roles": ["name"], "status.conditions": ["type"]}
"""Lists whose items are told apart by a key, which is then unique."""
_TEMPLATE = "spec.workers.template"
_MOST_ITEMS = {"spec.models": 8}
"""Bounds that only rules need, whose cost is counted by the longest list there may be."""
_QUANTITIES = ("spec.models[].kvCache.memory",)
_QUANTITY = r"^(auto|[0-9]+(\.[0-9]+)?([kKMGTPE]|[KMGTPE]i)?)$"
_COLUMNS = (
    ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", "Whether all workers take steps."),
    ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", "Why."),
    ("Workers", "integer", ".status.workers.ready", "Workers that take steps."),
    ("Sessions", "integer", ".status.sessions.hot", "Sessions that a live worker has KV of."),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the pool was made."),
)
_WIDE = {"Reason": {"priority": 1}}
"""Columns of `kubectl get -o wide` only."""


def custom_resource_definition() -> dict[str, Any]:
    """`agentpools.roost.dev` as a document."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "plural": PLURAL,
                "singular": KIND.lower(),
                "kind": KIND,
                "listKind": f"{KIND}List",
                "shortNames": ["ap"],
                "categories": ["all"],
            },
            "versions": [_version()],
        },
    }


def text() -> str:
    """The definition as YAML, with a first line that says where it comes from."""
    body = yaml.safe_dump(custom_resource_definition(), sort_keys=False, width=120)
    return "# Made from operator/roost_operator/api/spec.py by `make generate`; do not edit.\n" + body


def stale(root: Path) -> bool:
    """Whether the file in the repository at `root` is not what the spec says now."""
    file = root / FILE
    return not file.exists() or file.read_text(encoding="utf-8") != text()


def write(root: Path) -> None:
    """Writes the file anew."""
    (root / FILE).parent.mkdir(parents=True, exist_ok=True)
    (root / FILE).write_text(text(), encoding="utf-8")


def _version() -> dict[str, Any]:
    columns = [
        {"name": name, "type": kind, "jsonPath": path, "description": about, **_WIDE.get(name, {})}
        for name, kind, path, about in _COLUMNS
    ]
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": columns,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.workers.replicas",
                "statusReplicasPath": ".status.workers.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "schema": {"openAPIV3Schema": _root()},
    }


def _root() -> Schema:
    spec = Spec.model_json_schema(by_alias=True)
    status = Status.model_json_schema(by_alias=True)
    root: Schema = {
        "type": "object",
        "description": "A pool of workers that serve sessions of one model.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"{KIND}."},
            "metadata": {"type": "object"},
            "spec": _structural(spec, spec.get("$defs", {}), "spec"),
            "status": _structural(status, status.get("$defs", {}), "status"),
        },
    }
    _add_rules(root, "")
    return root


def _structural(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    """`schema` of pydantic's as the API server takes it: references inlined, None left out, defaults on parents."""
    source = _resolved(schema, definitions)
    made: Schema = {name: source[name] for name in _KEPT if name in source}
    if "const" in source:
        made["enum"] = [source["const"]]
    if path in _QUANTITIES:
        made = {name: value for name, value in made.items() if name != "type"}
        made |= {"x-kubernetes-int-or-string": True, "pattern": _QUANTITY, "maxLength": 32}
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if path == _TEMPLATE:
        made["properties"] = template_members()
    elif made.get("type") == "object":
        made |= _members(source, definitions, path)
    if made.get("type") == "array":
        made["items"] = _structural(source["items"], definitions, f"{path}[]")
        made |= _list_kind(path)
        if path in _MOST_ITEMS:
            made["maxItems"] = _MOST_ITEMS[path]
    if made.get("type") == "integer":
        made["format"] = "int64"
    if _LABEL_LENGTH.search(made.get("pattern", "")):
        made["maxLength"] = 63
    _set_default(made, source, path)
    _add_rules(made, path)
    return made


def _members(source: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    members = {
        name: _structural(member, definitions, f"{path}.{name}") for name, member in source["properties"].items()
    }
    required = [name for name in source.get("required", ()) if "default" not in members[name]]
    return {"properties": members, **({"required": required} if required else {})}


def _list_kind(path: str) -> Schema:
    if path in _MAPS:
        return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": _MAPS[path]}
    return {"x-kubernetes-list-type": "atomic"}


def _set_default(made: Schema, source: Mapping[str, Any], path: str) -> None:
    """Defaults of the spec. An object without a required field has itself as default, so that its members' apply."""
    if not path.startswith("spec"):
        return
    if made.get("type") == "object":
        if not made.get("required") and path != "spec" and not path.endswith("[]"):
            made["default"] = _defaults(made) if path in RULES else {}
    elif source.get("default") is not None:
        made["default"] = _without_none(source["default"])


def _defaults(made: Schema) -> dict[str, Any]:
    """Members' defaults: the API server tries an object's rules on its default before it fills members in."""
    members = made.get("properties", {})
    return {name: member["default"] for name, member in members.items() if "default" in member}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(member) for name, member in value.items() if member is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _add_rules(made: Schema, path: str) -> None:
    if path in RULES:
        made["x-kubernetes-validations"] = [dict(rule) for rule in RULES[path]]


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` without references and without the choice of null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    if choices:
        schema = {**choices[0], **{name: value for name, value in schema.items() if name != "anyOf"}}
    reference = schema.get("$ref")
    if reference is None:
        return dict(schema)
    target = definitions[reference.rsplit("/", 1)[1]]
    own = {name: value for name, value in schema.items() if name != "$ref"}
    return {**_resolved(target, definitions), **own}


def main(arguments: list[str]) -> int:
    """Writes the definition, or with `--check` tells whether it is current."""
    root = Path(__file__).parents[3]
    if arguments == ["--check"]:
        if stale(root):
            sys.stderr.write(f"{FILE} is not current; run make generate\n")
            return 1
        return 0
    write(root)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
