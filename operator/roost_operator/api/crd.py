"""The custom resource definition of `AgentPool`, generated from the typed spec: `python -m roost_operator.api.crd`.

Pure, except for `write` and `stale`. The schema is structural: every field has a type, and there are no references.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from roost_operator.api.crd_rules import RULES
from roost_operator.api.crd_template import template_members
from roost_operator.api.quantity import AUTO, MEMORY
from roost_operator.api.spec import GROUP, KIND, VERSION, Spec
from roost_operator.api.status import PoolStatus

PLURAL = "agentpools"
FILE = Path("manifests") / "crds" / "agentpools.yaml"
Schema = dict[str, Any]

_KEPT = (
    "description", "enum", "format", "maxItems", "maxLength", "maximum", "minItems", "minLength", "minimum", "pattern",
    "type",
)  # fmt: skip
"""Parts of pydantic's schema that are taken over."""
_LABEL_LENGTH = re.compile(r"\{0,61\}")
_MAPS = {"spec.models": ["name"], "spec.roles": ["name"], "spec.tenants": ["name"], "status.conditions": ["type"]}
"""Lists whose items have a unique key."""
_TEMPLATE = "spec.workers.template"
_MOST_ITEMS = {"spec.models": 8}
"""Bounds that are there for CEL only, which estimates a rule's cost from the longest possible list."""
_QUANTITIES = {
    "spec.models[].kvCache.memory": f"^({AUTO}|{MEMORY})$",
    "spec.models[].kvCache.hostMemory": f"^{MEMORY}$",
}
_COLUMNS = (
    ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", "Whether all workers take steps."),
    ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", "Why."),
    ("Workers", "integer", ".status.workers.ready", "Workers that take steps."),
    ("Limited", "string", ".status.conditions[?(@.type=='ModelLimited')].status", "Whether the model is limited."),
    ("Sessions", "integer", ".status.sessions.hot", "Sessions whose KV a live worker has."),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the pool was created."),
)
_WIDE = {"Reason": {"priority": 1}}
"""Columns of `kubectl get -o wide` only."""


def custom_resource_definition() -> dict[str, Any]:
    """The manifest of `agentpools.roost.dev`."""
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
    """The definition as YAML, with a first line that names its source."""
    body = yaml.safe_dump(custom_resource_definition(), sort_keys=False, width=120)
    return "# Made from operator/roost_operator/api/spec.py by `make generate`; do not edit.\n" + body


def stale(root: Path) -> bool:
    """Whether the file in the repository at `root` differs from the spec."""
    file = root / FILE
    return not file.exists() or file.read_text(encoding="utf-8") != text()


def write(root: Path) -> None:
    """Write the file in the repository at `root`."""
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
    status = PoolStatus.model_json_schema(by_alias=True)
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
    """A pydantic schema in the form the API server accepts: references inlined, no nulls, defaults on parents too."""
    source = _resolved(schema, definitions)
    result: Schema = {name: source[name] for name in _KEPT if name in source}
    if "const" in source:
        result["enum"] = [source["const"]]
    if path in _QUANTITIES:
        result = {name: value for name, value in result.items() if name != "type"}
        result |= {"x-kubernetes-int-or-string": True, "pattern": _QUANTITIES[path], "maxLength": 32}
        result["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if path == _TEMPLATE:
        result["properties"] = template_members()
    elif result.get("type") == "object":
        result |= _members(source, definitions, path)
    if result.get("type") == "array":
        result["items"] = _structural(source["items"], definitions, f"{path}[]")
        result |= _list_kind(path)
        if path in _MOST_ITEMS:
            result["maxItems"] = _MOST_ITEMS[path]
    if result.get("type") == "integer":
        result["format"] = "int64"
    if _LABEL_LENGTH.search(result.get("pattern", "")):
        result["maxLength"] = 63
    _set_default(result, source, path)
    _add_rules(result, path)
    return result


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


def _set_default(schema: Schema, source: Mapping[str, Any], path: str) -> None:
    """Set the default. Objects without required fields get one too, since only then the defaults in them apply."""
    if not path.startswith("spec"):
        return
    if schema.get("type") == "object":
        if not schema.get("required") and path != "spec" and not path.endswith("[]"):
            schema["default"] = _defaults(schema) if path in RULES else {}
    elif source.get("default") is not None:
        schema["default"] = _without_none(source["default"])


def _defaults(schema: Schema) -> dict[str, Any]:
    """Members' defaults, for an object with rules: the API server checks the rules before it fills in members."""
    members = schema.get("properties", {})
    return {name: member["default"] for name, member in members.items() if "default" in member}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(member) for name, member in value.items() if member is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _add_rules(schema: Schema, path: str) -> None:
    if path in RULES:
        schema["x-kubernetes-validations"] = [dict(rule) for rule in RULES[path]]


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` without references and without null as an alternative."""
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
    """Write the definition; with `--check`, return 1 if the file is not current."""
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
