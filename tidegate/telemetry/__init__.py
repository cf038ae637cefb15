"""Metrics, traces and logs, and the one list of their names."""
