"""What hosts a tool server: the process, the tokens. Not a server itself."""
