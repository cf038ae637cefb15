"""The gateway service: every public route goes through here."""
