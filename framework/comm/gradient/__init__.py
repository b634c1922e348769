"""Gradient strategies, one file each: how the workers agree on a step."""
