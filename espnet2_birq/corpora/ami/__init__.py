"""Preparation of the AMI meeting corpus: utterances, scoring files, statistics."""
