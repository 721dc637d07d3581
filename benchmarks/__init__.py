"""Speed and memory, always as ratios within one run: `python -m benchmarks` is the main table."""

import os
import sys

if sys.argv[0] == "-m":  # Python starts it as a program; a test that imports it keeps its bars.
    os.environ["TQDM_DISABLE"] = "1"  # before tqdm is imported: no bars between the rows of a table
