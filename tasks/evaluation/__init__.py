"""Stages of evaluate-dataset: each leaves files in the workspace under the digest of what decides them."""
