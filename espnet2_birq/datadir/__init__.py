"""Kaldi data directories and the audio they name; no knowledge of any corpus."""
