"""A gateway on Kubernetes reads what is secret from mounted files, and derives the secrets of pools from one key."""

from pathlib import Path

import pytest

from roost.contract.pool_secret import pool_secret
from roost_gateway.config import ConfigError, PoolSecrets, load_config


def write(folder: Path, **fields: str) -> Path:
    file = folder / "gateway.yaml"
    file.write_text("".join(f"{name}: {value}\n" for name, value in fields.items()))
    return file


def test_the_stores_url_and_the_pool_key_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://gateway:secret@redis:6379\n")
    (tmp_path / "key").write_text("0123456789abcdef\n")
    config = load_config(write(tmp_path, store_url_file="url", pool_key_file="key"))
    assert config.store_url == "redis://gateway:secret@redis:6379"
    assert PoolSecrets(config).get("team/coders", "") == pool_secret("0123456789abcdef", "team/coders")


def test_a_secret_that_was_told_goes_before_the_derived_one(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, pool_key="key", pool_secrets="{a/b: told}"))
    assert PoolSecrets(config)["a/b"] == "told"
    assert PoolSecrets(config)["a/c"] == pool_secret("key", "a/c")


def test_without_a_key_an_unknown_pool_has_no_secret(tmp_path: Path) -> None:
    secrets = PoolSecrets(load_config(write(tmp_path, pool_secrets="{a/b: told}")))
    assert (secrets.get("a/b"), secrets.get("a/c", "")) == ("told", "")


@pytest.mark.parametrize("name", ["store_url_file", "pool_key_file"])
def test_a_file_that_is_missing_or_empty_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load_config(write(tmp_path, **{name: "absent"}))
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match=rf"{name}.*is empty"):
        load_config(write(tmp_path, **{name: "empty"}))


@pytest.mark.parametrize("name", ["store_url_file", "pool_key_file", "pool_secrets_file"])
def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="binary"):
        load_config(write(tmp_path, **{name: "binary"}))


def test_secrets_differ_by_pool_and_by_key_and_an_empty_key_is_refused() -> None:
    assert len({pool_secret(key, pool) for key in ("k1", "k2") for pool in ("a/b", "a/c")}) == 4
    with pytest.raises(ValueError, match="pool key is empty"):
        pool_secret("", "a/b")
