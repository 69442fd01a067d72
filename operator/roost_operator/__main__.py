"""Runs the operator: `python -m roost_operator`. Settings come from the environment (`kubernetes/settings.py`)."""

import logging
import sys

import kopf

import roost_operator.kubernetes.handlers  # noqa: F401  registers them with kopf
from roost_operator.kubernetes.controller import KindsChangedError
from roost_operator.kubernetes.settings import SettingsError, from_process

LOG = logging.getLogger(__name__)


def main() -> int:
    """Returns 0 after SIGTERM, 1 when leadership was lost or a port is taken, 2 for a wrong setting."""
    try:
        settings = from_process()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    kopf.configure()
    while True:
        try:
            kopf.run(clusterwide=True, standalone=True, liveness_endpoint=settings.liveness)
            return 0
        except Exception as error:
            reason = error.__cause__ or error
            if not _kinds_changed(reason):
                LOG.error("the operator ends: %s", reason)
                return 1
            LOG.info("the operator begins again: %s", reason)


def _kinds_changed(error: BaseException) -> bool:
    """kopf 1.45.2 ends with an error of status 404 when a kind that it watches is deleted."""
    return isinstance(error, KindsChangedError) or getattr(error, "status", None) == 404


if __name__ == "__main__":
    sys.exit(main())
