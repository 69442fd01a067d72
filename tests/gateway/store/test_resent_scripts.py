"""A script whose reply was lost is sent again by the client library: at once, or after others."""

import asyncio

from redis_servers import RedisServer
from roost.store.keys import PoolKeys
from roost.store.redis_store import RedisStore, connect
from store_driver import (
    POOL,
    TENANT,
    begin_request,
    commit_request,
    lease,
    new_session,
    publish,
    publish_cached,
    reservation,
)

KEYS = PoolKeys(POOL)


async def begun(store: RedisStore, **fields):
    session_id = (await store.open(new_session())).session_id
    return await store.begin(begin_request(session_id, **fields))


class LossyProxy:
    """Passes bytes on to a Redis; when told, cuts the connection instead of passing a script's next reply."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.lost = 0
        self._armed = False
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "LossyProxy":
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._listener.wait_closed()

    def lose_next_reply(self) -> None:
        self._armed = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        up = asyncio.create_task(self._pass(reader, up_writer, lossy=False))
        down = asyncio.create_task(self._pass(up_reader, writer, lossy=True))
        _, pending = await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        for end in (writer, up_writer):
            end.close()
            await end.wait_closed()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, lossy: bool) -> None:
        while data := await reader.read(65536):
            if lossy and self._armed and not data.startswith(b"-NOSCRIPT"):
                self._armed, self.lost = False, self.lost + 1
                return
            writer.write(data)
            await writer.drain()


async def test_a_script_whose_reply_was_lost_is_sent_again_without_harm(fresh_redis):
    async with LossyProxy(fresh_redis) as proxy:
        store = await connect(proxy.url, grace_ms=0)
        with fresh_redis.client() as raw:
            publish(raw, lease("w1"))
        new = new_session(request_id="once")

        async def without_reply(call):
            proxy.lose_next_reply()
            return await call

        assert (await without_reply(store.open(new))).session_id == new.session_id
        began = await without_reply(store.begin(begin_request(new.session_id)))
        assert began.ref.epoch == 1
        assert await without_reply(store.reserve(reservation(began)))
        assert (await without_reply(store.commit(commit_request(new.session_id, began.ref, "step-1")))).index == 0
        second = await store.begin(begin_request(new.session_id, "step-2"))
        await without_reply(store.abort(new.session_id, second.ref))
        assert (await without_reply(store.hold(new.session_id, TENANT, "grep", 1, None))).hold.tool == "grep"
        descriptor, epoch = await without_reply(store.evict(new.session_id, TENANT))
        assert epoch == descriptor.epoch == 3
        assert (await without_reply(store.close(new.session_id, TENANT))).steps == 1
        assert await without_reply(store.delete(new.session_id, TENANT)) == 4
        assert proxy.lost == 9
        await store.aclose()


def content(raw) -> dict:
    """Everything in Redis."""
    keys = list(raw.scan_iter())
    read = {b"hash": raw.hgetall, b"string": raw.get, b"list": lambda k: raw.lrange(k, 0, -1)}
    return {key: read.get(raw.type(key), lambda k: raw.zrange(k, 0, -1, withscores=True))(key) for key in keys}


async def test_scripts_that_are_sent_again_much_later_change_nothing(fresh, fresh_redis):
    sent = []
    send = fresh._link.script_runner.evalsha

    async def recorded(*arguments):
        sent.append(arguments)
        return await send(*arguments)

    fresh._link.script_runner.evalsha = recorded
    with fresh_redis.client() as raw:
        publish(raw, lease("w1"))
        session_id = (await fresh.open(new_session(request_id="once"))).session_id
        first = await fresh.begin(begin_request(session_id))
        await fresh.reserve(reservation(first))
        await fresh.commit(commit_request(session_id, first.ref, "step-1"))
        publish_cached(raw, session_id)
        aborted = await fresh.begin(begin_request(session_id, "step-2"))
        await fresh.release(reservation(aborted))
        await fresh.abort(session_id, aborted.ref)
        gone = await begun(fresh, lease_ms=0)
        await fresh.delete(gone.descriptor.session_id, TENANT)
        await fresh.hold(session_id, TENANT, "grep", 1, None)
        live = await fresh.begin(begin_request(session_id, "step-3"))
        assert live.reserved == "w1"
        before = content(raw)
        assert len(sent) == 12
        answers = [(await send(*arguments))[0].decode() for arguments in sent]
        assert content(raw) == before
        step = ["done", "committed", "refused", "committed"]  # open, begin, reserve, commit
        aborted_step = ["refused", "released", "aborted"]
        deleted_session = ["refused", "refused", "done"]
        assert answers == step + aborted_step + deleted_session + ["done", "began"]
        await fresh.abort(session_id, live.ref)
        sent.clear()
        _, epoch = await fresh.evict(session_id, TENANT)
        assert (await fresh.begin(begin_request(session_id, "step-3"))).ref.epoch == epoch + 1
        assert (await send(*sent[0]))[3] == epoch
