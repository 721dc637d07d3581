"""A Ray cluster of two workers on this machine, one of which is killed while it trains a cell.

`python cluster_with_a_death.py SWEEP FOLDER`; the runs go to FOLDER/runs.
"""

import sys
import threading
import time
from pathlib import Path

from ray.cluster_utils import Cluster as LocalCluster

from mamlpp.run import sweep


def main(path: Path, folder: Path) -> None:
    cells, runs = sweep.read_sweep(path), folder / "runs"
    cluster = LocalCluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]

    def kill_one() -> None:
        while not any(sweep.last_iteration(runs / c.name / "history.csv") >= 10 for c in cells):
            time.sleep(0.05)
        cluster.remove_node(nodes[0], allow_graceful=False)
        print("killed", flush=True)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    with sweep.Cluster(runs, cluster.address) as engine:
        failed = sweep.run_sweep(cells, runs, engine.submit)
    killer.join()
    cluster.shutdown()
    sys.exit(str(failed) if failed else 0)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
