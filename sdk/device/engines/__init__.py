"""Ways to run a bundle's model: tokens in, scores of the next token out. `protocol` says what all of them can."""
