"""The one place that makes clients of the store, and its URLs."""

import pytest
from redis.asyncio import Redis, RedisCluster

from roost.store.link import open_client


@pytest.mark.parametrize("query", ["cluster=true", "cluster=True", "cluster=1", "cluster=yes&protocol=2"])
async def test_a_cluster_is_asked_for_in_the_query_of_its_url(query: str) -> None:
    client = open_client(f"redis://127.0.0.1:1/?{query}", socket_timeout=1.0, connections=1)
    assert isinstance(client, RedisCluster)
    await client.aclose()


@pytest.mark.parametrize("query", ["", "cluster=false", "protocol=2"])
async def test_another_url_means_one_server(query: str) -> None:
    client = open_client(f"redis://user:pw@127.0.0.1:1/3?{query}", socket_timeout=1.0, connections=1)
    assert isinstance(client, Redis)
    assert client.connection_pool.connection_kwargs["db"] == 3
    await client.aclose()
