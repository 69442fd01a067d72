#!/usr/bin/env bash
# kubernetes 37.0.2 (PyPI): the asyncio client's own leader election cannot create the Lease that it is to hold.
#
# kubernetes.aio.leaderelection's LeaseLock.create passes pretty=True to create_namespaced_lease. The generated asyncio
# client of this release checks arguments with pydantic and takes only text there, so the call raises before anything is
# sent: a new installation, which has no Lease yet, never gets a leader, and the error is not the ApiException that the
# lock catches. The same request without `pretty` is sent and answered. One would guess that a lock that ships with the
# client works with it, as the synchronous one does.
#
# Seen on 2026-11-29: "ValidationError: 1 validation error ... pretty ... Input should be a valid string", 0 requests.
# Exit status 0 while it is so. Needs PyPI; takes a minute. The API server is a few lines on loopback.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check kubernetes==37.0.2 aiohttp==3.14.5
cat >finding.py <<'SOURCE'
import asyncio
import datetime
import sys

from aiohttp import web
from kubernetes.aio import client
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock


async def main() -> int:
    requests = []

    async def created(request):
        requests.append(request.path)
        return web.json_response(await request.json(), status=201)

    app = web.Application()
    app.router.add_post("/{path:.*}", created)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    configuration = client.Configuration(host=f"http://127.0.0.1:{port}")
    now = str(datetime.datetime.now())  # as the election itself writes them
    async with client.ApiClient(configuration) as api:
        lock = LeaseLock("leader", "default", "me", api)
        record = LeaderElectionRecord("me", "15", now, now)
        try:
            outcome = await lock.create("leader", "default", record)
        except Exception as error:
            outcome = f"{type(error).__name__}: {' '.join(str(error).split())[:110]}"
        by_lock = len(requests)
        body = client.V1Lease(metadata=client.V1ObjectMeta(name="leader"), spec=lock.update_lease(record))
        await client.CoordinationV1Api(api).create_namespaced_lease("default", body)
    await runner.cleanup()
    print(f"LeaseLock.create: {outcome}; requests sent: {by_lock}, without pretty: {len(requests) - by_lock}")
    return 0 if str(outcome).startswith("ValidationError") and (by_lock, len(requests)) == (0, 1) else 1


sys.exit(asyncio.run(main()))
SOURCE
venv/bin/python finding.py || {
	echo "changed"
	exit 1
}
