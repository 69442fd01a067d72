"""A gateway's configuration. Frozen, checked on construction; every error names the field and the fix."""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from roost.addresses import is_loopback
from roost.config_document import from_document
from roost.contract.names import is_pool
from roost.contract.pool_secret import pool_secret

MIB = 1024 * 1024


class ConfigError(ValueError):
    """A configuration that cannot be served. The message names the field and the fix."""


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """The fields of the configuration file. The standard `OTEL_EXPORTER_OTLP_ENDPOINT` turns the OTLP exporter on."""

    listen: str = "127.0.0.1:7070"
    """Address and port of the public service; port 0 takes a free one."""
    http_listen: str = ""
    """Address and port of the HTTP APIs, by the rules of `listen`; empty serves none."""
    http_session_headers: tuple[str, ...] = ()
    """Further HTTP headers whose value names the client's conversation; they are read before the known ones."""
    store_url: str = "redis://127.0.0.1:6379"
    store_url_file: Path | None = None
    """File with the store's URL, as a Secret is mounted; takes the place of `store_url`."""
    pools: tuple[str, ...] = ()
    """Pools to serve; empty serves every pool that the store knows."""
    api_keys_file: Path | None = None
    """YAML file of hashed API keys (`roost_gateway.front.credentials`). Without it every caller is tenant `default`,
    and the gateway may listen on loopback only."""
    pool_secrets_file: Path | None = None
    """YAML or JSON file that maps pools to the secrets that their workers expect."""
    pool_secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The same, given directly; the file's entries take precedence."""
    pool_key_file: Path | None = None
    """File with the key from which the secrets of all other pools are derived (`roost.contract.pool_secret`)."""
    pool_key: str = field(default="", repr=False)
    """The same, given directly."""
    metrics_port: int | None = None
    """Prometheus port on the listening host; 0 takes a free one, None serves none."""
    max_message_bytes: int = 8 * MIB
    """Largest request. Up to twice as much is read and refused with MESSAGE_TOO_LARGE, more by gRPC itself."""
    max_connection_age_seconds: float = 0.0
    """Age at which a client is asked to reconnect, so that clients spread over new gateways; 0 means never."""
    step_timeout_seconds: float = 600.0
    """Deadline of a step whose client gave none, so that every wait ends."""
    drain_seconds: float = 30.0
    """How long running steps may go on after SIGTERM."""
    gateway_id: str = field(default_factory=lambda: f"gateway-{secrets.token_hex(4)}")

    def __post_init__(self) -> None:
        self._check_address("listen")
        if self.http_listen:
            self._check_address("http_listen")
        self._check_pools()
        self._check_numbers()

    def _check_address(self, field: str) -> None:
        address = getattr(self, field)
        host, _ = split_address(address, field)
        if self.api_keys_file is None and not is_loopback(host):
            raise ConfigError(
                f"{field}: {address!r} can be reached from other machines, and without api_keys_file everybody "
                "would be let in; set api_keys_file, or listen on 127.0.0.1"
            )

    def _check_pools(self) -> None:
        for pool in (*self.pools, *self.pool_secrets):
            if not is_pool(pool):
                raise ConfigError(f"pools: {pool!r} is not a pool's name; write namespace/name in lower case")

    def _check_numbers(self) -> None:
        for name in ("step_timeout_seconds", "drain_seconds", "max_connection_age_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: {getattr(self, name)} must not be negative")
        if self.step_timeout_seconds == 0:
            raise ConfigError("step_timeout_seconds: must be positive, so that every wait ends")
        if not 64 * 1024 <= self.max_message_bytes <= 512 * MIB:
            raise ConfigError(f"max_message_bytes: {self.max_message_bytes} must lie between 64 KiB and 512 MiB")
        if self.metrics_port is not None and not 0 <= self.metrics_port < 65536:
            raise ConfigError(f"metrics_port: {self.metrics_port} is not a port; use 0 to 65535, or leave it out")


def load_config(path: Path) -> GatewayConfig:
    """Reads a YAML or JSON file with the fields of `GatewayConfig`. Relative paths start at the file's folder.

    Raises ConfigError that names the field: unknown, of the wrong type, or out of range.
    """
    try:
        config = from_document(GatewayConfig, _read_mapping(path), folder=path.parent)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if config.pool_secrets_file is not None:
        pool_secrets = {**config.pool_secrets, **load_pool_secrets(config.pool_secrets_file)}
        config = replace(config, pool_secrets=pool_secrets)
    if config.store_url_file is not None:
        config = replace(config, store_url=_read_secret("store_url_file", config.store_url_file))
    if config.pool_key_file is not None:
        config = replace(config, pool_key=_read_secret("pool_key_file", config.pool_key_file))
    return config


class PoolSecrets(Mapping[str, str]):
    """The secret of each pool: the configured one, else one derived from the pool key when there is a key.

    Iterates over the configured pools only.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self._configured, self._key = config.pool_secrets, config.pool_key

    def __getitem__(self, pool: str) -> str:
        if pool in self._configured or not self._key:
            return self._configured[pool]
        return pool_secret(self._key, pool)

    def __iter__(self) -> Iterator[str]:
        return iter(self._configured)

    def __len__(self) -> int:
        return len(self._configured)


def load_pool_secrets(path: Path) -> dict[str, str]:
    """Reads the secrets of pools by their names. Raises ConfigError when the file holds anything else."""
    pool_secrets = _read_mapping(path)
    for pool, secret in pool_secrets.items():
        if not is_pool(pool) or not isinstance(secret, str) or not secret:
            raise ConfigError(f"pool_secrets_file {path}: {pool!r} must map namespace/name to a text that is not empty")
    return pool_secrets


def split_address(address: str, field: str = "listen") -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`. Raises ConfigError that names `field`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{field}: {address!r} must be host:port, for example 127.0.0.1:7070")
    return host.strip("[]"), int(port)


def _read_secret(name: str, path: Path) -> str:
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"{name} {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} {path}: is no text: {error}") from error
    if not text:
        raise ConfigError(f"{name} {path}: is empty; write the value into it")
    return text


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:  # a ValueError: no text, or a date that there is not
        raise ConfigError(f"{path}: neither YAML nor JSON: {error}") from error
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise ConfigError(f"{path}: must hold a mapping of names to values")
    return document
