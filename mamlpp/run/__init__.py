"""Training and evaluation: what drives the five files of the paper."""
