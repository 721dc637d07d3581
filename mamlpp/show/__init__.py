"""Plots, diagrams, widgets and live panels."""
