"""Valid pools that cannot run: the running operator, with its usual timing, says why within 30 s, and all goes on by
itself once it is mended. A real API server and real Redis; `condition_cases` plays what is not there."""

import asyncio

import pytest

from api_server import ApiServer
from condition_cases import CASES
from played_place import KUBERAY, Place, install_kuberay
from roost_operator.kubernetes import kinds

pytestmark = pytest.mark.timeout(300)


async def test_each_fact_is_told_in_time_and_forgotten_when_mended(place: Place) -> None:
    await place.pool("first")
    await place.told("first", "WorkersStarting", within=60)
    ended = await asyncio.gather(*(case(place) for case in CASES), return_exceptions=True)
    failed = {case.__name__: error for case, error in zip(CASES, ended, strict=True) if error is not None}
    assert failed == {}
    print(*(f"{seconds:5.1f} s {what}" for what, seconds in sorted(place.told_after.items())), sep="\n")


async def test_kuberay_that_is_not_installed(place: Place, api_server: ApiServer) -> None:
    await place.pool("alone")
    await place.told("alone", "WorkersStarting", within=60)
    api_server.kubectl("delete", *(f"crd/{plural}.ray.io" for plural in KUBERAY), "--timeout=60s")
    await place.told("alone", "KubeRayMissing")
    install_kuberay(api_server)
    await place.cluster("alone")
    await place.mends("alone")
    assert await place.api.get(kinds.SERVICE, place.namespace, "alone") is not None
