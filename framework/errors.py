"""The errors a user may see, each with the exit code its command ends on.

A message is one line: what was given, what was expected, and what would do. Whoever starts a run prints the message
alone; a traceback is for our own defects.
"""


class ShardyardError(Exception):
    """A failure with a cause we can name. Ends a command with `exit_code`."""

    exit_code = 1


class InputError(ShardyardError):
    """Something the user gave (a file, a flag, a value, a plug-in) cannot be used."""

    exit_code = 2


class StoreError(InputError):
    """A shard store or a checkpoint is missing, torn, altered, or of another version."""


class NewerVersionError(StoreError):
    """A store or a checkpoint that a newer program wrote: whole, but not for this one to read or to replace."""


class LostWorkerError(ShardyardError):
    """A worker, a host or a link was lost and could not be brought back."""

    exit_code = 3
