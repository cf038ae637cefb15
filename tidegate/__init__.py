"""Tidegate's shared vocabulary: configuration, errors, types, wire formats, store and telemetry."""

__version__ = "0.1.0"
