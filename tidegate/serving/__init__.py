"""What every service's process has in common: two ports, signals, probes, errors in OpenAI's shape."""
