"""Hosted tool servers (MCP): one file each. They import nothing of ours and meet the platform over HTTP and MCP only."""
