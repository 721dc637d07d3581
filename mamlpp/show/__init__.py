"""Plots, diagrams, explorers and the live panel.

Imports everything but the engine. Notebooks, tools and the command line import it; no part of the
algorithm does.
"""
