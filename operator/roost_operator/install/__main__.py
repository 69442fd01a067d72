"""`python -m roost_operator.install`: the chart's Jobs in the cluster, before install and before uninstall."""

import argparse
import os
import secrets
import sys
from collections.abc import Mapping
from typing import Any

from kubernetes import client, config
from kubernetes.client import ApiException

from roost_operator.api.spec import GROUP, VERSION
from roost_operator.install.drawn_secrets import api_keys_secret, pool_key_secret, store_secret

REFUSAL = (
    "pools still exist: {pools}. Without the operator they cannot drain: delete them "
    "(kubectl delete agentpools --all --all-namespaces) and uninstall again, or uninstall with --no-hooks and leave "
    "them as they are. Helm has marked the release as uninstalling and no longer upgrades it; to keep it: {keep}"
)


def main() -> int:
    """Exit status 1 when pools still exist, 2 when the cluster does not answer or the arguments are wrong."""
    arguments = _arguments()
    try:
        config.load_incluster_config()  # type: ignore[no-untyped-call]  # not typed there
        if arguments.action == "secrets":
            make_secrets(arguments, client.CoreV1Api(), os.environ.get("POD_NAMESPACE", "default"))
            return 0
        return refuse_pools(client.CustomObjectsApi(), arguments.keep)
    except (ApiException, config.ConfigException) as error:
        print(f"roost_operator.install: {error}", file=sys.stderr)
        return 2


def make_secrets(arguments: argparse.Namespace, core: client.CoreV1Api, namespace: str) -> None:
    """Create each named Secret that does not exist. An existing one is never changed."""

    def draw() -> str:
        return secrets.token_urlsafe(32)

    if arguments.pool_key:
        _make(core, namespace, arguments.pool_key, pool_key_secret(draw))
    if arguments.store:
        _make(core, namespace, arguments.store, store_secret(arguments.redis, draw))
    if arguments.api_keys:
        _make(core, namespace, arguments.api_keys, api_keys_secret(draw))


def refuse_pools(custom: client.CustomObjectsApi, keep: str) -> int:
    """Return 1, with a message that names the pools and the command that keeps the release, if there are pools."""
    try:
        answer: Any = custom.list_cluster_custom_object(GROUP, VERSION, "agentpools")
    except ApiException as error:
        if error.status == 404:  # the CRD is gone, and with it all pools
            return 0
        raise
    pools = sorted(f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in answer["items"])
    if pools:
        named = ", ".join(pools[:10]) + (" …" if len(pools) > 10 else "")
        print(REFUSAL.format(pools=named, keep=keep), file=sys.stderr)
    return 1 if pools else 0


def _make(core: client.CoreV1Api, namespace: str, name: str, data: Mapping[str, str]) -> None:
    labels = {"app.kubernetes.io/part-of": "roost"}
    body = client.V1Secret(metadata=client.V1ObjectMeta(name=name, labels=labels), string_data=dict(data))
    try:
        core.create_namespaced_secret(namespace, body)
    except ApiException as error:
        if error.status != 409:
            raise
        print(f"Secret {namespace}/{name} exists and stays as it is")
    else:
        print(f"Secret {namespace}/{name} created")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m roost_operator.install", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    drawn = actions.add_parser("secrets", help="create the installation's Secrets that do not exist")
    drawn.add_argument("--pool-key", help="name of the Secret with the key of all pools' secrets")
    drawn.add_argument("--store", help="name of the Secret with Redis's users and URLs")
    drawn.add_argument("--redis", default="localhost:6379", help="host:port of Redis, for the URLs")
    drawn.add_argument("--api-keys", help="name of the Secret with the first API key")
    guard = actions.add_parser("refuse-pools", help="exit with 1 while AgentPools exist")
    guard.add_argument("--keep", default="helm rollback RELEASE REVISION", help="the command that keeps the release")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
