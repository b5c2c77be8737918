"""A person's text in, one night of private learning with its report out."""
