"""Agents: the Responses API, run by LangGraph; every model and tool call goes back through the gateway's public door."""
