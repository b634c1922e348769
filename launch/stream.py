"""Raw files as a stream of Ray Data: pieces are read, decoded and written side by side, results in their order.

Assumptions: this process is connected to Ray; a piece is one row of the stream and one task, which runs on this host,
where the raw files are. Ray Data holds back pieces for which there is no memory. A piece's error comes as its row, for
Ray Data would keep no more of it than a text.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from framework.errors import InputError, LostWorkerError, ShardyardError, told
from launch.ray_mapper import by_tasks, first_line, reserved_here, this_host


def by_stream(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Results in the items' order. Raises what `function` raises."""
    if not reserved_here():  # Ray Data does nothing without a processor
        yield from by_tasks(function, items)
        return
    import ray
    import ray.data

    for name in ("ray", "ray.data"):  # which configure themselves when they are imported
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    kept = [ray.put(item) for item in items]

    def done(row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"result": function(ray.get(kept[row["id"]])), "unusable": "", "defect": ""}
        except InputError as error:
            return {"result": None, "unusable": str(error), "defect": ""}
        except Exception as error:
            return {"result": None, "unusable": "", "defect": told(error)}

    paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    pieces = ray.data.range(len(items), override_num_blocks=len(items))
    try:
        for row in pieces.map(done, runtime_env=paths, label_selector=this_host()).iter_rows():
            if row["unusable"]:
                raise InputError(row["unusable"])
            if row["defect"]:
                raise ShardyardError(f"preparing the data failed: {row['defect']}")
            yield row["result"]
    except ray.exceptions.RayError as error:
        raise LostWorkerError(f"the stream of raw files was lost: {first_line(error)}") from error
