"""Teacher weights in, a base bundle out: the maker's machine."""
