"""The data of a run: prepared, or found as the run's folder says that it was trained on.

Assumption: who asks a trained run something wants to know what it says of the data that it was trained on. That lies
prepared beneath the store, named by its digest; the raw data need not be there any more.
"""

from collections.abc import Callable
from pathlib import Path

from framework.config import encode
from framework.engine.folder import PREPARED, read_json
from framework.engine.run import Event, Launcher, Prepared, Run
from framework.errors import StoreError
from launch.local import Local
from launch.record import write_json

Preparing = Callable[[Run, Callable[[Event], None]], Prepared]
"""Has a run's data ready, telling how far it is."""


def prepared_data(run: Run, watch: Callable[[Event], None]) -> Prepared:
    """The run's data, partitioned and written, or found beneath its store."""
    return run.workload.prepare(Path(run.store), launcher_of(run).mapper(), watch)


def noted_data(run: Run, watch: Callable[[Event], None]) -> Prepared:
    """As `prepared_data`; where it is stands in the run's folder from then on."""
    prepared = prepared_data(run, watch)
    where = {"path": str(prepared.path), "data_digest": prepared.data_digest, "facts": encode(prepared.facts)}
    write_json(Path(run.out) / PREPARED, {**_whose(run), "prepared": where})
    return prepared


def known_data(run: Run, watch: Callable[[Event], None]) -> Prepared:
    """Where the run's folder says that its data is; as `prepared_data` where it is gone, or to be placed otherwise."""
    try:
        noted = read_json(Path(run.out) / PREPARED, "")
        prepared = Prepared(**{**noted["prepared"], "path": Path(noted["prepared"]["path"]), "seconds": 0.0})
    except (StoreError, KeyError, TypeError):
        return prepared_data(run, watch)
    same = {name: noted.get(name) for name in _whose(run)} == _whose(run)
    return prepared if same and prepared.path.is_dir() else prepared_data(run, watch)


def known_store(run: Run) -> str:
    """Where a trained run's data is kept, from whichever directory it is asked: a relative store lies where the run
    was started. As the run says, where nothing is there."""
    try:
        noted = read_json(Path(run.out) / PREPARED, "")
        there, store = Path(noted["prepared"]["path"]).is_dir(), str(noted["store"])
    except (StoreError, KeyError, TypeError):
        return run.store
    return store if there else run.store


def launcher_of(run: Run) -> Launcher:
    """Who starts the run: the launcher it names, or processes of this machine."""
    return run.launcher if run.launcher is not None else Local()


def _whose(run: Run) -> dict[str, object]:
    """What prepared data depends on, and where it is kept: not what weights are asked."""
    return {"workload": encode(run.workload, asked_too=False), "store": str(Path(run.store).absolute())}
