"""Training and evaluation: the loop, its folder and resuming, seeds, sweeps, background training.

Imports the definition, the data and the engine, which nothing else uses. `show`, `checks` and the
command line import it.
"""
