"""Preparation of unpacked corpora as Kaldi data directories."""
