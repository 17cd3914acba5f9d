"""Benchmark data sets of synthetic medical images paired with longitudinal outcomes."""
