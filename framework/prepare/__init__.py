"""From raw data to a shard store on disk: `prepare`."""

from framework.prepare.job import Prepared, prepare

__all__ = ["Prepared", "prepare"]
