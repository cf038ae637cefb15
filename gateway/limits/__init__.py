"""How much a project may use at once and per minute."""
