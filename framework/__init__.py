"""Shardyard's framework: everything between raw data and a trained checkpoint, without a command line.

Assumption: this is imported before torch makes the process's first tensor, when it reads whether large tensors are to
lie on huge pages. Later is no error, but then they do not.
"""

import os

__version__ = "0.1.0"

# A tensor of 2 MiB or more that is new every step costs the system a page fault and zeros every 4 KiB; a third of
# an epoch went there (docs/decisions.md). Workers inherit what is set here; a user's own choice stays.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
