"""Interrupts, progress, meters, versions: nothing in this folder changes weights, answers or scores."""
