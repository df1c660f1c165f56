"""Interrupts, progress, meters, versions: nothing in this folder changes a result."""
