"""A bundle and an admitted adapter in, answers out: the user's machine."""
