"""A Ray cluster on this machine whose worker is killed while it trains a cell.

`python cluster_with_a_death.py SWEEP FOLDER`; the runs go to FOLDER/runs.
"""

import sys
import threading
import time
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster as LocalCluster

from mamlpp.run import sweep


def main(path: Path, folder: Path) -> None:
    cells, runs = sweep.read_sweep(path), folder / "runs"
    cluster = LocalCluster(initialize_head=True, head_node_args={"num_cpus": 1})

    def kill_worker() -> None:
        while not any(sweep.last_iteration(runs / c.name / "history.csv") >= 10 for c in cells):
            time.sleep(0.05)
        for child in psutil.Process().children(recursive=True):
            if "ray::run_cell" in " ".join(child.cmdline()):
                child.kill()
                print("killed", flush=True)

    killer = threading.Thread(target=kill_worker, daemon=True)
    killer.start()
    with sweep.Cluster(runs, cluster.address) as engine:
        failed = sweep.run_sweep(cells, runs, engine.submit)
    killer.join()
    cluster.shutdown()
    sys.exit(str(failed) if failed else 0)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
