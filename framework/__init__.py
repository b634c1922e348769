"""Shardyard's framework: everything between a raw graph or data set and a trained checkpoint, without a command line."""

__version__ = "0.1.0"
