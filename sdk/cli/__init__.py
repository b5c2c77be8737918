"""Command lines in, answers on stdout out: one file a reader."""
