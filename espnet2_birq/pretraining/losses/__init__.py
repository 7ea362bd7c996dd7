"""Losses at masked frames."""
