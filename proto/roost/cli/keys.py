"""`roost keys`: API keys for the gateway's key file."""

import json
import secrets
import sys
from typing import Annotated

import typer

from roost.contract.api_keys import hash_api_key
from roost.contract.names import is_pool

app = typer.Typer(help="Make API keys for the gateway's key file.", no_args_is_help=True)


@app.callback()
def _keys() -> None:
    pass


@app.command("hash")
def hash_key(
    tenant: Annotated[str, typer.Option(help="Tenant that the key belongs to.")] = "default",
    pool: Annotated[
        list[str] | None, typer.Option(help="Pool that the key may use; repeat it for several.", show_default="all")
    ] = None,
    key_id: Annotated[str, typer.Option("--id", help="Name of the key in logs.")] = "",
) -> None:
    """Print a key file with one key, for `roost up --api-keys` or a gateway's `api_keys_file`.

    The key is read from standard input. Without input a new key is drawn and shown once, on standard error.
    """
    for name in pool or []:
        if name != "*" and not is_pool(name):
            raise typer.BadParameter(f"{name!r} is not a pool's name; write namespace/name", param_hint="--pool")
    if not tenant or ":" in tenant or not tenant.isprintable():
        raise typer.BadParameter(f"{tenant!r} must be a text without a colon", param_hint="--tenant")
    key = "" if sys.stdin.isatty() else sys.stdin.read().strip()
    if not key:
        key = f"roost_{secrets.token_urlsafe(32)}"
        typer.echo(f"key: {key}", err=True)
        typer.echo("hint: store it now; the key file below has only its hash", err=True)
    digest = hash_api_key(key)
    typer.echo(_entry(key_id or f"key-{digest[:8]}", digest, tenant, pool or ["*"]))


def _entry(key_id: str, digest: str, tenant: str, pools: list[str]) -> str:
    """YAML with JSON strings, so that values need no further quoting."""
    lines = ["keys:", f"  - id: {json.dumps(key_id)}", f"    sha256: {json.dumps(digest)}"]
    lines += [f"    tenant: {json.dumps(tenant)}", f"    pools: {json.dumps(pools)}"]
    return "\n".join(lines)
