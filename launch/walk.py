"""Walking a pipeline: every step is found, resumed or made, in order, each from what those before it made.

Assumptions: the folder of a pipeline is written by one process at a time, which holds its lock. A run's folder is named
by what the run is, `teacher-1f2e3d4c`, so that a changed setting begins a folder of its own and the old one stays. A
product is a folder beneath the store, named by its digest; what is finished of it waits in the folder `work` there.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from framework import config
from framework.engine.folder import REPORT, read_mapping, verify_weights
from framework.engine.pipeline import Pipeline, Product, product_digest, resolved, run_digest
from framework.engine.run import Event, Launcher, Run
from framework.errors import InputError, StoreError
from framework.made import Made
from framework.store.folder import once_resumed
from framework.store.product import ProductFolder
from launch.local import Local
from launch.prepared import prepared_data
from launch.record import recording_pipeline
from launch.start import recorded

WORK = "work"
"""The folder beneath a store in which products wait that are not finished."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shared:
    """What holds for all steps of a pipeline."""

    workers: int = config.placement(1)
    """Worker processes of every run."""
    device: Literal["cpu", "cuda"] = config.placement("cpu")
    """Where workers compute."""
    launcher: Launcher | None = config.placement(None)
    """Who starts the workers, and who makes products side by side. None: processes of this machine."""
    seed: int | None = None
    """The root of every random draw, of all runs. None: as each run says."""
    out: str = config.placement("runs/latest")
    """The pipeline's folder: its log and report, and a folder for every run. Started again with it, it goes on."""
    store: str = config.placement("stores")
    """Where prepared data and products are kept."""
    deadline: float = config.placement(300.0)
    """Seconds a worker waits for the others before it gives up."""

    def applied(self, step: Run | Product) -> Run | Product:
        """The step with these settings, where it is a run."""
        if not isinstance(step, Run):
            return step
        return dataclasses.replace(
            step,
            workers=self.workers,
            device=self.device,
            launcher=self.launcher,
            seed=step.seed if self.seed is None else self.seed,
            store=str(Path(self.store).absolute()),
            deadline=self.deadline,
        )


def walk(pipeline: Pipeline, shared: Shared, until: str | None, show: Callable[[Event], None]) -> dict[str, Any]:
    """Walks the steps, up to and with `until` where that is given; returns the report, which the folder gets too.

    Raises ShardyardError, as the first step does that cannot be done."""
    began = time.perf_counter()
    names = list(pipeline.steps)
    if until is not None and until not in names:
        raise InputError(f"--until is '{until}'; expected one of the steps: {', '.join(names)}.")
    wanted = names[: names.index(until) + 1] if until else names
    pipeline = Pipeline(steps={name: shared.applied(step) for name, step in pipeline.steps.items()})
    with recording_pipeline(Path(shared.out), pipeline) as record:

        def watch(event: Event) -> None:
            record(event)
            show(event)

        walker = _Walker(shared, watch, show)
        report: dict[str, Any] = {"pipeline_digest": pipeline.digest(), "finished": False, "steps": walker.told}
        for number, name in enumerate(wanted, 1):
            watch({"event": "begins", "step": name, "number": number, "steps": len(names)})
            walker.take(name, pipeline.steps[name])
            watch({"event": "ends", "step": name, **walker.told[name]})
            report |= {"finished": name == names[-1], "seconds": time.perf_counter() - began}
            record.report(_kept(report, record.earlier()))
    return report


def _kept(report: dict[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """A report with what an earlier one says of steps that were found as that one left them; of the same pipeline,
    where all of them were, with what it says of those behind them, too."""
    steps, before = report["steps"], earlier.get("steps", {})
    found = {name for name, told in steps.items() if told["was"] == "reused" and _is_of(before, name, told["digest"])}
    if earlier.get("pipeline_digest") != report["pipeline_digest"] or found != set(steps):
        return {**report, "steps": {name: before[name] if name in found else told for name, told in steps.items()}}
    return {**report, **earlier}


def _is_of(before: Mapping[str, Any], name: str, digest: str) -> bool:
    return bool(before.get(name, {}).get("digest") == digest)


class _Walker:
    """Where a walk is: what the steps behind it have made."""

    def __init__(self, shared: Shared, watch: Callable[[Event], None], show: Callable[[Event], None]) -> None:
        """`watch` takes what products tell; what runs tell, which have logs of their own, is for `show`."""
        self._shared, self._watch, self._show = shared, watch, show
        self._made: dict[str, Made] = {}
        self.told: dict[str, dict[str, Any]] = {}
        """What the report says of every step."""

    def take(self, name: str, step: Run | Product) -> None:
        """The next step: found, resumed, or made."""
        began = time.perf_counter()
        step = resolved(step, self._made)
        made, told = self._run(name, step) if isinstance(step, Run) else self._product(name, step)
        self._made[name] = made
        self.told[name] = {"digest": made.digest, "path": made.path, **told, "seconds": time.perf_counter() - began}

    def _run(self, name: str, run: Run) -> tuple[Made, Mapping[str, Any]]:
        """A run, in a folder of the pipeline's."""
        prepared = prepared_data(run, self._show)
        digest = run_digest(run, prepared.data_digest)
        folder = Path(self._shared.out).absolute() / f"{name}-{digest[:8]}"
        run = dataclasses.replace(run, out=str(folder))
        report = _report_of(run, prepared.data_digest)
        report = {**report, "was": "reused"} if report is not None else recorded(run, self._show)
        # Trained again, with other workers say, it is the same run but for its last digits: what is made of it is not.
        digest = config.digest([digest, report["weights_digest"]])
        return Made(step=name, digest=digest, path=run.out), {name: report[name] for name in ("was", "metrics")}

    def _product(self, name: str, step: Product) -> tuple[Made, Mapping[str, Any]]:
        """A product, in a folder of the store's."""
        digest = product_digest(step)
        store = Path(self._shared.store).absolute()
        work = store / WORK / digest[:16]
        was = "resumed" if work.exists() else "made"

        def make(folder: Path) -> None:
            mapper = (self._shared.launcher or Local()).mapper()
            ProductFolder.seal(folder, digest=digest, facts=step.make(folder, work, mapper, self._watch))

        def waiting() -> None:
            self._watch({"event": "waits", "step": name})

        found, reused = once_resumed(store / digest[:16], work, _whole_product, make, waiting)
        made = Made(step=name, digest=digest, path=str(found.path))
        return made, {"was": "reused" if reused else was, "facts": found.facts}


def _whole_product(path: Path) -> ProductFolder:
    """The product in a folder, every byte of it compared: what is made of it bears the digest of one that is whole."""
    found = ProductFolder.open(path)
    found.verify()
    return found


def _report_of(run: Run, data_digest: str) -> Mapping[str, Any] | None:
    """What a run came to that ended as it is now, of the data there is now; None where it did not, or where its weights
    are damaged, so that its last checkpoint gives them once more."""
    folder = Path(run.out)
    try:
        report: Mapping[str, Any] = read_mapping(folder / REPORT, "")
        expected = {"run_digest": run.digest(), "data_digest": data_digest}
        if {name: report.get(name) for name in expected} != expected:
            return None
        verify_weights(folder, report, "")
    except StoreError:
        return None
    return report
