"""Whose words are spoken on a path: errors, streams and answers in OpenAI's form or in another's."""
