"""Vector engines: one file each."""
