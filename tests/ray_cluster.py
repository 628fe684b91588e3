"""A Ray cluster of two nodes on this machine, for tests: two raylets with one processor each, and little memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

OBJECT_STORE_BYTES = 100 * 2**20


class Nodes:
    """The cluster.

    Attributes:
        address: Its address.
    """

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = str(self._cluster.address)
        self._second: Any = None
        self.add_second()

    def add_second(self) -> None:
        """Start the second node."""
        self._second = self._cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)
        self._cluster.wait_for_nodes()

    def kill_second(self) -> None:
        """Kill the second node with all its processes, without a warning."""
        if self._second is not None:
            self._cluster.remove_node(self._second, allow_graceful=False)
            self._second = None

    def stop(self) -> None:
        """End every process of the cluster."""
        self._cluster.shutdown()


@contextmanager
def cluster() -> Iterator[Nodes]:
    """A cluster that ends with the block."""
    nodes = Nodes()
    try:
        yield nodes
    finally:
        nodes.stop()
