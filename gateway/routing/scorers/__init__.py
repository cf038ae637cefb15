"""Scorers say which replica should serve; one file each."""
