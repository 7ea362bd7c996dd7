"""Faster implementations with equal results: attention, CPU matmuls, memory."""
