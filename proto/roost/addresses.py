"""Addresses of gRPC servers: how they are written, and which are reached without a proxy."""

import ipaddress
import re

NO_PROXY = ("grpc.enable_http_proxy", 0)
"""Option of a channel that ignores `grpc_proxy`, `https_proxy` and `http_proxy`."""

_SCHEME = re.compile(r"(?:dns|ipv4|ipv6):(?://[^/]*/)?")
_CLUSTER_DOMAINS = (".svc", ".cluster.local")


def join_address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_internal(target: str) -> bool:
    """Whether a gRPC target is on this machine or names a Service of the cluster, so that no proxy can reach it.

    Such names have no dot, or end in `.svc` or `.cluster.local`.
    """
    addresses = _SCHEME.sub("", target, count=1).split(",")
    return all(_is_internal_host(_host(address)) for address in addresses)


def _host(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    host, _, port = address.rpartition(":")
    return host if host and ":" not in host and port.isdigit() else address


def _is_internal_host(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.removesuffix(".").lower()
        return "." not in name or name.endswith(_CLUSTER_DOMAINS)
    return address.is_loopback or address.is_unspecified
