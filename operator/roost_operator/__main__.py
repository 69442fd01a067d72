"""Runs the operator: `python -m roost_operator`. Settings come from the environment (`kubernetes/settings.py`)."""

import asyncio
import logging
import signal
import sys

from roost_operator.kubernetes.leader import LostError
from roost_operator.kubernetes.process import run
from roost_operator.kubernetes.settings import Settings, SettingsError, from_process


def main() -> int:
    """Returns 0 after SIGTERM, 1 when leadership was lost or a port is taken, 2 for a wrong setting."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = from_process()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        asyncio.run(_run(settings))
    except (LostError, OSError) as error:
        logging.error("the operator ends: %s", error)
        return 1
    return 0


async def _run(settings: Settings) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(settings, stop)


if __name__ == "__main__":
    sys.exit(main())
