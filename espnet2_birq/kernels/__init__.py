"""Faster ways to the same numbers: attention, products on a CPU, memory."""
