"""Evaluation of a data set: random effects predicted from images, and their scores with intervals."""
