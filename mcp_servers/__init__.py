"""Hosted MCP tool servers, one per file; they import nothing of ours."""
