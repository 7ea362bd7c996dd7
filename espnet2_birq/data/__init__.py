"""Corpora on disk: reading audio headers, writing and checking Kaldi data."""
