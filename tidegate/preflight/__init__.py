"""Looks at a target before an install: the cluster, and the services of others that the platform will use."""
