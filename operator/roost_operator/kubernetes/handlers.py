"""The operator's kopf handlers: `kopf run -A --standalone -m roost_operator.kubernetes.handlers`.

kopf watches pools and their children, keeps them in an index, and answers the kubelet's probe. Each event of an object
wakes the reconciliation of its pool (`controller.py`). Settings come from the environment (`settings.py`).

There is no `@kopf.daemon` or `@kopf.timer` for a pool: with them kopf 1.45.2 adds a finalizer of its own to each pool,
and stops them when a pool's deletion begins, which is when its workers must be drained and its sessions purged.
"""

import itertools
import logging
from collections.abc import Callable
from typing import Any

import kopf

from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.controller import Controller
from roost_operator.kubernetes.known_objects import index_entries
from roost_operator.kubernetes.settings import from_process
from roost_operator.plan.names import POOL_LABEL

API_RETRY_SECONDS = 5.0
LIST_CHUNK = 50
"""Page size of kopf's first lists; unpaged, 100 pools raise the process's memory by 3 MiB for its lifetime."""
_CHATTY = ("kopf.objects", "kopf.activities.probe", "aiohttp.access")
"""Loggers with a line for each event that was handled and each probe that was answered."""


def watched(decorator: Callable[..., Any]) -> Callable[..., Any]:
    """Applies a decorator of kopf's for each kind that the operator watches."""

    def decorate(handler: Any) -> Any:
        for kind in kinds.WATCHED:
            decorator(kind.group, kind.version, kind.plural)(handler)
        return handler

    return decorate


@kopf.on.startup(errors=kopf.ErrorsMode.PERMANENT)
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **indices: Any) -> None:
    configure(settings)
    memo.controller = await Controller.start(from_process(), indices["objects"])


@kopf.on.cleanup(errors=kopf.ErrorsMode.PERMANENT)
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Fails with the reason for which the controller has stopped kopf, if it has: then the process fails."""
    await memo.controller.stop()


@kopf.on.login()
async def login(**arguments: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)


@kopf.on.probe(id="stuck")
async def probe(memo: kopf.Memo, **_: Any) -> dict[str, float]:
    """An error makes the probe fail, so that the kubelet restarts the operator."""
    stuck: dict[str, float] = memo.controller.stuck()
    if stuck:
        raise kopf.PermanentError(f"no progress for so many seconds: {stuck}")
    return stuck


@watched(kopf.index)
async def objects(body: kopf.Body, **_: Any) -> dict[tuple[str, ...], dict[str, Any]]:
    """The index of all objects, by their names and by their pools."""
    return index_entries(dict(body))


@watched(kopf.on.event)
async def changed(event: kopf.RawEvent, memo: kopf.Memo, **_: Any) -> None:
    """Called for listed objects, too, once kopf has indexed all objects of all kinds."""
    memo.controller.changed(event["object"], deleted=event["type"] == "DELETED")


def configure(settings: kopf.OperatorSettings) -> None:
    """Makes kopf write nothing, and need no right but to list and watch the kinds of its handlers."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.networking.error_backoffs = itertools.repeat(API_RETRY_SECONDS)  # for as long as the API server is away
    settings.watching.chunk_size = LIST_CHUNK
    for kind in kinds.WATCHED:
        if kind is not kinds.POOL:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = POOL_LABEL
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
