"""Matrices of training runs, their logs, reports and plots."""
