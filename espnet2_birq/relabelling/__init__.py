"""Offline relabelling: labels of a trained model on disk, to train the next model."""
