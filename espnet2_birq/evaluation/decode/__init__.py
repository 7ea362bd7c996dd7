"""Greedy and n-gram decoding of fine-tuned CTC models."""
