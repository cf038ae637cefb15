"""Configuration: boot settings, resources, and the loader that reads both."""
