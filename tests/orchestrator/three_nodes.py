"""A Ray of three nodes on one machine, in a process of its own: `python -m tests.orchestrator.three_nodes`

Says its address and the id of its head; then removes the node whose id begins as a line on stdin and says `removed`;
ends all when stdin does.
"""

from __future__ import annotations

import sys

import orchestrator.clusters.ray_environment  # noqa: F401

# isort: split
from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    others = [cluster.add_node(**NODE) for _ in range(2)]
    print(cluster.address, cluster.head_node.node_id, flush=True)
    try:
        for line in sys.stdin:
            [node] = [one for one in others if one.node_id.startswith(line.strip())]
            cluster.remove_node(node, allow_graceful=False)
            print("removed", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
