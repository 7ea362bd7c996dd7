"""Corpora as they are unpacked, prepared as Kaldi data directories."""
