"""Measures of what the layers of an encoder hold."""
