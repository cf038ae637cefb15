"""One file per migration, applied in order."""
