"""What may pass: one file per guardrail; the engine that applies them is in `engine/`."""
