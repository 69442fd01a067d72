"""The `roost` command. It needs the extra `cli`; other packages add commands as entry points in `roost.commands`."""

import os
import sys


def main() -> None:
    """Runs `roost`; the console script."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own log is not for users
    try:
        from roost.cli import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.stderr.write(f"error: the command line needs `{error.name}`\nhint: pip install 'roost[cli]'\n")
        sys.exit(1)
    app.run()
