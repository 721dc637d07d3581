"""Speed and memory, always as ratios within one run: `python -m benchmarks` is the main table."""

import os

os.environ["TQDM_DISABLE"] = "1"  # before tqdm is imported: no bars between the rows of a table
