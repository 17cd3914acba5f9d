"""Images in the likelihood: the mean g(x) of a subject's random effects, learned from images beside a table."""
