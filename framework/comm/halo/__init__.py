"""Halo rows: what the owners of a shard's halo send, layer by layer."""
