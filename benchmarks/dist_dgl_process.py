"""A process of the benchmark beside DistDGL: one of its servers or trainers, or one of our workers.

Assumptions: a trainer or worker trains an epoch for every line that it is told, and prints how long that took and what
went over its host's interface; it ends with its input. What DistDGL is told by variables (DGL_ROLE and others) is set
by the benchmark.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.workers import ANSWER

SETTINGS = "SHARDYARD_BENCHMARK"
"""The variable with the settings of a DistDGL process, as JSON: DGL starts samplers that import this module anew."""


def on_command(epoch: Callable[[int], None]) -> None:
    """Trains epochs as they are asked for."""
    for line in sys.stdin:
        sent, began = _interface(), time.perf_counter()
        epoch(int(line))
        print(ANSWER + json.dumps({"seconds": time.perf_counter() - began, "bytes": _interface() - sent}), flush=True)


def _interface() -> int:
    """Bytes that this host has sent."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "eth0":
            return int(counts.split()[8])
    return 0


def shardyard(run: Any, worker: Any) -> dict[str, Any]:
    """A main of our workers."""
    from benchmarks.remote_rows import epochs_of

    print(ANSWER + json.dumps("ready"), flush=True)
    on_command(epochs_of(run, worker, {}))
    return {}


def distdgl(settings: dict[str, Any]) -> None:
    """A server, which never returns, or a trainer of GraphSAGE as DGL's examples have it."""
    import dgl
    import torch
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dgl.distributed.initialize(os.environ["DGL_IP_CONFIG"], num_worker_threads=1)
    torch.distributed.init_process_group(
        "gloo", init_method=settings["rendezvous"], rank=settings["rank"], world_size=settings["size"]
    )
    graph = dgl.distributed.DistGraph(settings["graph"], part_config=os.environ["DGL_CONF_PATH"])
    seeds = dgl.distributed.node_split(graph.ndata["training"], graph.get_partition_book(), force_even=True)
    sampler = dgl.dataloading.NeighborSampler(list(reversed(settings["fanouts"])))  # DGL: the input layer's first
    loader = dgl.dataloading.DistNodeDataLoader(
        graph, seeds, sampler, batch_size=settings["batch_size"], shuffle=True, drop_last=False
    )

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [settings["columns"], settings["hidden"], settings["classes"]]
            self.layers = nn.ModuleList(
                dgl.nn.SAGEConv(before, after, "mean") for before, after in itertools.pairwise(widths)
            )
            self.dropout = nn.Dropout(settings["dropout"])

        def forward(self, blocks: list[Any], x: torch.Tensor) -> torch.Tensor:
            for number, (layer, block) in enumerate(zip(self.layers, blocks, strict=True)):
                x = layer(block, x)
                if number + 1 < len(blocks):
                    x = self.dropout(nn.functional.relu(x))
            return x

    model = DistributedDataParallel(Network())
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["lr"])

    def epoch(number: int) -> None:
        for nodes, targets, blocks in loader:
            rows, labels = graph.ndata["features"][nodes], graph.ndata["labels"][targets]
            loss = nn.functional.cross_entropy(model(blocks, rows), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    print(ANSWER + json.dumps("ready"), flush=True)
    on_command(epoch)
    os._exit(0)  # DGL's own end waits for servers


if __name__ == "__main__":
    if sys.argv[1] == "distdgl":
        distdgl(json.loads(os.environ[SETTINGS]))
    else:
        from launch.worker import Job

        request = json.loads(sys.argv[2])
        Job(**request.pop("job")).perform(tell=lambda event: None, local_rank=0, **request)
