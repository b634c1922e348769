"""Caches, one file each: of which other workers' nodes a worker keeps the rows."""
