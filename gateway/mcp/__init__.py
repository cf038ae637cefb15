"""The door for tools: MCP clients on one side, hosted tool servers on the other."""
