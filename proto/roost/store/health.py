"""Whether Redis keeps what is written to it: persistence, durability and eviction."""

from typing import Any

from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

from roost.store.link import ForbiddenError, RedisLink
from roost.store.store_health import StoreHealth

WANTED = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
_WHY = {
    "appendonly": "committed steps are lost when Redis restarts",
    "appendfsync": "a crash loses the last committed steps",
    "maxmemory-policy": "Redis throws sessions away when its memory is full",
}
_LOSES = ("appendonly", "appendfsync")


def judge(settings: dict[str, str], where: str) -> tuple[bool, list[str]]:
    """Whether commits are durable at the server `where`, and what is wrong with its settings, each with its fix."""
    wrong = [name for name, value in WANTED.items() if settings.get(name, value) != value]
    if settings.get("appendonly", "yes") != "yes" and "appendfsync" in wrong:
        wrong.remove("appendfsync")  # says nothing without an append-only file
    problems = [f"{where}: {n} is {settings[n]!r}: {_WHY[n]}; set {n} {WANTED[n]}" for n in wrong]
    return not any(name in _LOSES for name in wrong), problems


def _hidden(where: str) -> str:
    wanted = ", ".join(f"{name} {value}" for name, value in WANTED.items())
    return f"{where} does not show its settings (CONFIG is forbidden); make sure of {wanted}"


async def check(link: RedisLink) -> StoreHealth:
    """Asks every primary. A server that hides its settings, as managed servers do, is trusted.

    Raises StoreAwayError.
    """
    durable, problems, hidden, run_ids = True, list[str](), list[str](), list[str]()
    for where, options in await _primaries(link):
        settings = await _settings(link, options)
        if settings is None:
            hidden.append(_hidden(where))
        else:
            good, wrong = judge(settings, where)
            durable = durable and good
            problems += wrong
        info = await link.run("INFO", "server", **options)
        run_ids.append(str(info["run_id"]))
    return StoreHealth(durable, tuple(problems), ",".join(sorted(run_ids)), await uptime(link), tuple(hidden))


async def uptime(link: RedisLink) -> int:
    """Seconds since the last start of a primary. Raises StoreAwayError."""
    servers = [await link.run("INFO", "server", **options) for _, options in await _primaries(link)]
    return min(int(info["uptime_in_seconds"]) for info in servers)


async def _primaries(link: RedisLink) -> list[tuple[str, dict[str, Any]]]:
    """Name of each primary, and the client's options that send a command there."""
    if not isinstance(link.client, RedisCluster):
        return [("Redis", {})]
    await link.run("PING")  # looks at the cluster, if the client has not yet
    return [(f"Redis {node.name}", {"target_nodes": node}) for node in link.client.get_primaries()]


async def _settings(link: RedisLink, options: dict[str, Any]) -> dict[str, str] | None:
    settings: dict[str, str] = {}
    for name in WANTED:
        try:
            reply = await link.run("CONFIG GET", name, **options)
        except (ResponseError, ForbiddenError):  # an unknown command, or one that the ACL forbids: a managed Redis
            return None
        settings |= {_text(key): _text(value) for key, value in reply.items()}
    return settings


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
