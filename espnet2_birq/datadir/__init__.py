"""Kaldi data directories and their audio, for any corpus."""
