"""Decoding of fine-tuned CTC models, with and without an n-gram."""
