"""What travels: the few OpenAI structs we act on, and SSE framing."""
