"""Applies a policy's guardrails to requests, answers and streams."""
