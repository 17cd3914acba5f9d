"""Evaluation of a data set: what the image says about random effects, and how sure one can be of it."""
