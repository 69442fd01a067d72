"""API keys: whose they are, and which pools they may use."""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from roost.contract.api_keys import hash_api_key
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost_gateway.config import ConfigError
from roost_gateway.core.caller import ANYONE, Caller, Right


@dataclass(frozen=True, slots=True)
class _Key:
    digest: bytes
    caller: Caller


class Authenticator:
    """Reads `keys: [{id, sha256, tenant, pools, rights}]` from a YAML file, again whenever the file changes."""

    def __init__(self, path: Path | None) -> None:
        """Without a path every caller is let in. Raises ConfigError when the file cannot be read or is malformed."""
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: list[_Key] = []
        if path is not None:
            self._stamp, self._keys = _stamp(path), _load(path)

    def identify(self, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Returns who sent `authorization: Bearer KEY`, or else `x-api-key: KEY`, in gRPC metadata or HTTP headers with
        names in lower case. Raises Refused: INVALID_API_KEY."""
        if self._path is None:
            return ANYONE
        self._reload(self._path)
        digest = bytes.fromhex(hash_api_key(_key_of(metadata)))
        caller = None
        for key in self._keys:  # always all of them, so that the time taken does not depend on which key matches
            if hmac.compare_digest(key.digest, digest):
                caller = key.caller
        if caller is None:
            raise _unauthenticated("the API key is unknown; ask the pool's owner for one")
        return caller

    def _reload(self, path: Path) -> None:
        """Reads a changed file. While it is missing or malformed the keys stay as they are."""
        try:
            stamp = _stamp(path)
            if stamp == self._stamp:
                return
            self._keys, self._stamp = _load(path), stamp
        except (ConfigError, OSError):
            return


def _key_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    keys: dict[str, str] = {}
    for name, value in metadata:
        if name in ("authorization", "x-api-key"):
            text = value.decode(errors="replace") if isinstance(value, bytes) else value
            scheme, _, key = text.partition(" ") if name == "authorization" else ("bearer", "", text)
            if scheme.lower() == "bearer" and key.strip():
                keys.setdefault(name, key.strip())
    if keys:
        return keys.get("authorization") or keys["x-api-key"]
    raise _unauthenticated("no API key was given; send `authorization: Bearer KEY` or `x-api-key: KEY`")


def _unauthenticated(message: str) -> Refused:
    return Refused(Reason.INVALID_API_KEY, message)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"api_keys_file {path}: cannot be read: {error.strerror}") from error
    return status.st_mtime_ns, status.st_size, status.st_ino


def _load(path: Path) -> list[_Key]:
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:  # a ValueError: no text, or a date that there is not
        raise ConfigError(f"api_keys_file {path}: cannot be read as YAML: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ConfigError(f"api_keys_file {path}: must hold `keys:` with a list of {{id, sha256, tenant, pools}}")
    return [_key(path, number, entry) for number, entry in enumerate(document["keys"])]


def _key(path: Path, number: int, entry: Any) -> _Key:
    where = f"api_keys_file {path}: keys[{number}]"
    if not isinstance(entry, dict) or set(entry) - {"rights"} != {"id", "sha256", "tenant", "pools"}:
        raise ConfigError(f"{where}: must have id, sha256, tenant and pools, may have rights, and nothing else")
    try:
        digest = bytes.fromhex(entry["sha256"])
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: sha256 must be hexadecimal; make it with `roost keys hash`") from error
    if len(digest) != 32:
        raise ConfigError(f"{where}: sha256 must have 64 digits; make it with `roost keys hash`")
    pools, tenant = entry["pools"], entry["tenant"]
    if not isinstance(pools, list) or not all(isinstance(pool, str) for pool in pools):
        raise ConfigError(f'{where}: pools must be a list of namespace/name, or ["*"]')
    if not isinstance(tenant, str) or not tenant or ":" in tenant or not tenant.isprintable():
        raise ConfigError(f"{where}: tenant must be a text without a colon")
    rights = entry.get("rights", [])
    if not isinstance(rights, list) or not set(map(str, rights)) <= set(Right):
        raise ConfigError(f"{where}: rights must be a list of: {', '.join(Right)}")
    return _Key(digest, Caller(tenant, frozenset(pools), str(entry["id"]), frozenset(map(Right, rights))))
