"""Measurements behind the tables of the documentation; not part of the package that is installed."""
