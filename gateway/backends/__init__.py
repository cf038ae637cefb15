"""The way to a model server: the relay, and a scriptable fake."""
