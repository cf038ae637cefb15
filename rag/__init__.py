"""Retrieval: documents in, cited passages out. A service of its own."""
