"""The usage journal and its way into the database."""
