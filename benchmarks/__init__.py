"""Speed and memory, always as ratios within one run: `python -m benchmarks` is the main table."""
