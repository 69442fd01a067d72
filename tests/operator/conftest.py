"""Fixtures of the operator's tests."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from api_server import ApiServer, api_server, namespace
from built_binaries import kuberay_definitions
from operator_process import grant, operators
from played_place import place
from redis_servers import RedisServer, fresh_redis, redis_cluster, redis_server, shared_cluster, shared_redis
from roost_operator.kubernetes.api import Api
from roost_operator.kubernetes.reconciler import Reconciler
from roost_operator.plan.installation import Installation

__all__ = [
    "api_server",
    "fresh_redis",
    "namespace",
    "operators",
    "place",
    "redis_cluster",
    "redis_server",
    "shared_cluster",
    "shared_redis",
]


@pytest.fixture(scope="module")
def prepared(api_server: ApiServer) -> Iterator[ApiServer]:
    """The API server, and the user `operator` with the rights that the chart gives it, which must be enough: whatever
    the tests called is in the audit log, and none of it was refused."""
    if kuberay_definitions() is None:
        pytest.skip("no KubeRay definitions; run `make binaries`")
    grant(api_server, "operator", "default")
    yield api_server
    called = [event for event in api_server.requests("operator") if event["userAgent"] == "roost-operator"]
    assert called
    refused = [event for event in called if event["responseStatus"].get("code") in (401, 403)]
    assert [event["requestURI"] for event in refused] == []


@pytest.fixture
async def reconciler(prepared: ApiServer, redis_server: RedisServer) -> AsyncIterator[Reconciler]:
    """Writes with the operator's rights. It reads the API server itself, as nobody who has a cache need be allowed to,
    so that each test knows what is seen."""
    api, reader = [await Api.connect(kubeconfig=prepared.kubeconfig(user)) for user in ("operator", "admin")]
    installation = Installation(store_url=redis_server.url, pool_key="k" * 32)
    async with aclosing(Reconciler(api, installation, reader=reader)) as running:
        yield running
    await api.aclose()
    await reader.aclose()
