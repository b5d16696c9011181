"""A Ray cluster of several nodes on this machine, for tests and benchmarks."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def ray_nodes(*cpus: int) -> Iterator[Any]:
    """Yields a `ray.cluster_utils.Cluster` with one node for each number of CPUs; the first is the head.

    Ray's own folder is a temporary one: its name must be short, since sockets are in it.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="ray-") as folder:
        warnings.simplefilter("ignore")  # of Ray's, when it is imported
        from ray.cluster_utils import Cluster

        options = {"include_dashboard": False, "temp_dir": folder}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], **options})
        try:
            for number in cpus[1:]:
                cluster.add_node(num_cpus=number, **options)
            yield cluster
        finally:
            cluster.shutdown()
