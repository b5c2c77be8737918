"""What an app asks in, answers out: decoding, guided output, tools and sessions, above all engines."""
