"""What an earlier step of a pipeline made, as a value inside the runs and products of later steps."""

import dataclasses
from pathlib import Path

from framework.config import placement
from framework.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """The result of an earlier step: its name, until a walk of the pipeline says what it is and where."""

    step: str
    """The step's name."""
    digest: str = ""
    """Of what it made, and so a part of every digest that depends on it. Empty before the walk."""
    path: str = placement("")
    """The folder: a run's, or a product's. Empty before the walk."""

    @property
    def folder(self) -> Path:
        """The folder. Raises InputError before the walk."""
        if not self.path:
            raise InputError(
                f"a setting names what step '{self.step}' made, which nobody has walked yet; train the pipeline that "
                "the step belongs to."
            )
        return Path(self.path)
