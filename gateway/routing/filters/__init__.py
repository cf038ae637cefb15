"""Filters say which replicas may serve; one file each."""
