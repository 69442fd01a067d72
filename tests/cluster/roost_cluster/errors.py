"""What goes wrong with the cluster for tests."""


class ClusterError(RuntimeError):
    """The cluster cannot be had, or did not do what was asked. The message names the fix or the log."""
