"""Measures of phone information in encoder layers."""
