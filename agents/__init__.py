"""The Responses runtime: the tool loop. A service of its own."""
