"""Offline relabelling: a trained model's labels, on disk, train the next model."""
