"""The AMI meeting corpus: annotation, utterances, scoring files, statistics."""
