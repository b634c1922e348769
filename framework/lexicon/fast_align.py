"""fast_align, by the library systran-align: IBM Model 2 with a diagonal (Dyer, Chahuneau and Smith, NAACL 2013).

Assumptions: the library's estimation adds up what its threads counted in the order in which they are done, so that two
runs differ; it is called in a process of its own with a single thread, and then gives the same bytes every time.
Words are the numbers of tokens.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from framework.data.dataset import Mapper
from framework.errors import InputError, ShardyardError
from framework.lexicon.bitext import Bitext
from framework.lexicon.links import Links
from framework.registry import ALIGNERS

_FILES = ("forward.probabilities", "backward.probabilities")
_CALL = "import json, sys, systran_align; systran_align.generate_alignment_probabilities(**json.loads(sys.argv[1]))"


@ALIGNERS.register("fast-align")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FastAlign:
    """fast_align (Dyer et al., 2013) by the library systran-align, both directions joined; on one processor."""

    iterations: int = 5
    """Passes of expectation maximisation."""
    diagonal: bool = True
    """Whether links near the diagonal are preferred while it learns, by a tension that is learned too."""
    null: float = 0.08
    """The probability that a token is linked to none."""

    def __post_init__(self) -> None:
        if self.iterations < 1 or not 0 < self.null < 1:
            raise InputError(
                f"iterations is {self.iterations} and null {self.null}; expected at least 1, and one between 0 and 1."
            )

    def require(self) -> None:
        """Raises InputError where the library is not installed."""
        _library()

    def estimate(
        self, bitext: Bitext, vocabulary: int, folder: Path, work: Path, mapper: Mapper, told: Callable[[float], None]
    ) -> dict[str, Any]:
        """Writes the pairs that have words on both sides as text for the library, and lets it learn from them.

        Raises InputError where the library is not installed, or no pair has words."""
        _library()
        text = work / "pairs.txt"
        pairs = [
            f"{_words(source)} ||| {_words(target)}\n"
            for source, target in zip(bitext.source, bitext.target, strict=True)
            if source and target
        ]
        if not pairs:
            raise InputError("no pair of sentences has words on both sides; expected some to learn an alignment from.")
        text.write_text("".join(pairs))
        forward, backward = (str(folder / name) for name in _FILES)
        arguments = {
            "input_path": str(text),
            "forward_probs_path": forward,
            "backward_probs_path": backward,
            "iterations": self.iterations,
            "favor_diagonal": self.diagonal,
            "optimize_tension": self.diagonal,
            "prob_align_null": self.null,
        }
        done = subprocess.run(
            [sys.executable, "-c", _CALL, json.dumps(arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ShardyardError(f"fast_align ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        text.unlink()
        return {}

    def links(self, folder: Path, bitext: Bitext, vocabulary: int) -> Links:
        """The library's links, joined by grow-diag-final-and. Raises InputError where it is not installed."""
        aligner = _library().Aligner(*(str(folder / name) for name in _FILES))

        def linked(source: list[int], target: list[int]) -> list[tuple[int, int]]:
            if not source or not target:
                return []
            found = aligner.align(list(map(str, source)), list(map(str, target)))["alignments"]
            return [(int(i), int(j)) for i, j in found]

        return Links.of(map(linked, bitext.source, bitext.target))


def _words(sentence: list[int]) -> str:
    return " ".join(map(str, sentence))


def _library() -> ModuleType:
    try:
        import systran_align
    except ImportError as error:
        raise InputError(
            "the aligner `fast-align` needs the library systran-align: install shardyard[align], or choose `hmm`."
        ) from error
    found: ModuleType = systran_align
    return found
