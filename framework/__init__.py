"""Shardyard's framework: everything between raw data and a trained checkpoint, without a command line."""

__version__ = "0.1.0"
