"""Document parsers: one file per kind, the file's name is its type. See README.md."""
