"""Evaluation of models: decoding, error rates, phones."""
