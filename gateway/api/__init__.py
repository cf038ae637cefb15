"""Public routes: one table of paths, one file per OpenAI path."""
