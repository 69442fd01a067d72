"""`python -m roost_cluster ACTION`: what `make` and CI ask of the cluster for tests.

`build` gets the programs, `packages` names Debian's packages, `up` runs the cluster, `tree` prints the hash of what e2e
judges, `passed` compares it with the committed one or, with `--tree`, notes that one as passed.
"""

import argparse
import signal
import sys

from roost_cluster import passed
from roost_cluster.cluster import one_node_cluster
from roost_cluster.errors import ClusterError
from roost_cluster.host import PACKAGES
from roost_cluster.toolbox import HELM, Toolbox


def main() -> int:
    """Exit status 1 with the fix when the cluster cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m roost_cluster", description="A one-node Kubernetes for tests.")
    parser.add_argument("action", choices=("build", "packages", "up", "tree", "passed"))
    parser.add_argument("--tree", help="with passed: the hash of the tree whose tests have just passed")
    arguments = parser.parse_args()
    action = arguments.action
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if action == "build":
            toolbox = Toolbox()
            toolbox.path(HELM)
            toolbox.build_all()
        elif action == "packages":
            print(PACKAGES)
        elif action == "tree":
            print(passed.tree())
        elif action == "passed" and arguments.tree:
            print(passed.write(arguments.tree))
        elif action == "passed":
            return 0 if passed.has_passed() else 1
        else:
            _run()
    except ClusterError as error:
        print(f"roost_cluster: {error}", file=sys.stderr)
        return 1
    return 0


def _run() -> None:
    with one_node_cluster() as cluster:
        print(f"export KUBECONFIG={cluster.kubectl.kubeconfig}; kubectl is {cluster.kubectl.binary}", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("taking it down", flush=True)


if __name__ == "__main__":
    sys.exit(main())
