"""OpenAI's paths for files, vector stores and embeddings, one file each, and the search that the gateway asks."""
