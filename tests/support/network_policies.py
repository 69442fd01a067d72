"""Who may reach whom by NetworkPolicies, as Kubernetes defines them: for a network that enforces none. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """A pod: where it is, its labels, and the names of its ports."""

    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, namespace: str, template: Mapping[str, Any]) -> "Endpoint":
        """A pod of a template."""
        ports = [port for container in template["spec"]["containers"] for port in container.get("ports", ())]
        names = {port["name"]: port["containerPort"] for port in ports}
        return cls(namespace, template["metadata"]["labels"], names)


def may_reach(policies: Iterable[Policy], client: Endpoint, server: Endpoint, port: int) -> bool:
    """Whether `client` may open a TCP connection to `port` of `server`, which is not on the client's own node."""
    known = list(policies)
    leaves = _allowed(known, "Egress", "to", client, server, server, port)
    return leaves and _allowed(known, "Ingress", "from", server, client, server, port)


def _allowed(
    policies: list[Policy], kind: str, key: str, subject: Endpoint, peer: Endpoint, server: Endpoint, port: int
) -> bool:
    """Nobody is kept out of a pod that no policy of this kind selects; else one of their rules must let it in."""
    chosen = [policy for policy in policies if _selects(policy, kind, subject)]
    return not chosen or any(
        _from_peer(rule.get(key), policy["metadata"]["namespace"], peer) and _on_port(rule.get("ports"), server, port)
        for policy in chosen
        for rule in policy["spec"].get(kind.lower()) or ()
    )


def _selects(policy: Policy, kind: str, subject: Endpoint) -> bool:
    spec = policy["spec"]
    here = policy["metadata"]["namespace"] == subject.namespace
    return here and kind in spec["policyTypes"] and matches(spec["podSelector"], subject.labels)


def _from_peer(peers: Any, namespace: str, other: Endpoint) -> bool:
    return not peers or any(_is_peer(peer, namespace, other) for peer in peers)


def _is_peer(peer: Mapping[str, Any], namespace: str, other: Endpoint) -> bool:
    assert not set(peer) - {"podSelector", "namespaceSelector"}, "address blocks are not known here"
    if "namespaceSelector" not in peer:
        return other.namespace == namespace and matches(peer["podSelector"], other.labels)
    inside = matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
    return inside and matches(peer.get("podSelector", {}), other.labels)


def _on_port(ports: Any, server: Endpoint, port: int) -> bool:
    return not ports or port in [server.ports.get(port_rule["port"], port_rule["port"]) for port_rule in ports]


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector holds; the empty one always does."""
    named = all(labels.get(name) == value for name, value in (selector.get("matchLabels") or {}).items())
    return named and all(_holds(expression, labels) for expression in selector.get("matchExpressions") or ())


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values", ())
    return {
        "Exists": value is not None,
        "DoesNotExist": value is None,
        "In": value in values,
        "NotIn": value not in values,
    }[expression["operator"]]
