"""Whether steps that share pairs are of the same ones: asked before the first step, not after hours at the last.

Steps of a pipeline copy settings that they have to share: a student's data and vocabulary are its teacher's, or what
one step numbers means something else in another.
"""

from collections.abc import Mapping
from typing import Any

from framework.data.pair_sets import PairSet
from framework.engine.run import Run
from framework.errors import InputError
from framework.made import Made


def require_same_pairs(
    user: Any, used: Mapping[str, Made | None], steps: Mapping[str, Any], *, vocabulary: bool = True
) -> None:
    """Raises InputError where a step that `user`, a product or a workload, uses under the names of fields `used` is of
    other raw pairs, or, where that matters, spells them by another `vocabulary`. `steps`: a pipeline's, by name."""
    own = _pairs(user, steps)
    for field, made in used.items():
        if made is None or own is None or (other := _pairs(steps.get(made.step), steps)) is None:
            continue
        if other[0] != own[0]:
            raise InputError(
                f"{field} is what step '{made.step}' made of {other[0]}, and this step is of {own[0]}; give both "
                "the same data by their flags, as --teacher.data.folder and --student.data.of.folder."
            )
        if vocabulary and other[1] != own[1]:
            raise InputError(
                f"{field} is what step '{made.step}' made with a vocabulary of {other[1]}, and this step has one of "
                f"{own[1]}; give both the same --vocabulary."
            )


def _pairs(step: Any, steps: Mapping[str, Any]) -> tuple[PairSet, int] | None:
    """The raw pairs that a step is of in the end, and the size of their vocabulary; None where it is of none."""
    subject = step.workload if isinstance(step, Run) else step
    data, vocabulary = getattr(subject, "data", None), getattr(subject, "vocabulary", None)
    if isinstance(data, PairSet) and isinstance(vocabulary, int):
        return data.origin(), vocabulary
    for field in ("align", "pairs", "model"):  # a product is of what that step is of
        made = getattr(subject, field, None)
        if isinstance(made, Made) and made.step in steps:
            return _pairs(steps[made.step], steps)
    return None
