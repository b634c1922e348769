"""Samplers, one file each: seeds in, blocks out."""
