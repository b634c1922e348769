"""What is known of the nodes that a worker owns, split, class and raw id, and what scores of theirs come to."""

from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from framework.comm.reach import Shards, parts_read
from framework.comm.rows import all_rows
from framework.data.dataset import NO_LABEL, TRAIN
from framework.errors import InputError
from framework.graph.block import Nodes
from framework.workloads.samples import SPLITS

MEASURES = tuple(f"{name}_{metric}" for name, _ in SPLITS for metric in ("loss", "accuracy", "macro_f1"))
"""What is measured of every split that has nodes with labels."""
_REMEDIES = {
    "split": "Draw a split by --data.shares 0.5 0.2, or name its column by --data.split where the data set has one.",
    "labels": "Node classification needs them: y in an .npz file, else a column or file named by --data.label(s).",
}


class NodeLabels:
    """Splits and classes of the owned nodes, in the order of the shards. Columns stay on disk until they are asked for.

    Raises InputError, whatever is asked, where the store has no split, or no labels."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def training(self, owned: Nodes) -> tuple[Nodes, Tensor]:
        """The training nodes of all workers, by original id, and their labels; `owned`: the owned nodes, [n].

        Raises InputError where there are none, or one has no label."""
        mine = torch.nonzero(self._owned("split") == TRAIN).squeeze(1)
        nodes = owned[mine]
        table = torch.stack([nodes.original, nodes.ids, nodes.degree, self._owned("labels")[mine]], dim=1)
        table = all_rows(self.shards.group, table, "state")
        if len(table) == 0:
            raise InputError(f"{self.shards.store.path} has no training nodes. {_REMEDIES['split']}")
        original, ids, degree, labels = table[torch.argsort(table[:, 0])].t().contiguous()
        if int(labels.min()) == NO_LABEL:
            node = int(original[labels == NO_LABEL][0])
            raise InputError(f"training node {node} has no label; take it out of the split or label it.")
        return Nodes(ids=ids, original=original, degree=degree), labels

    def metrics(self, scores: Tensor) -> dict[str, float]:
        """Mean loss, accuracy and macro F1 of every split over all workers, from the owned nodes' scores [n, classes].

        A class counts in the mean of F1 where a node has it or is taken for it."""
        labels, split, classes = self._owned("labels"), self._owned("split"), self.shards.store.num_classes
        predicted, losses = scores.argmax(1), -scores.double().log_softmax(1)
        metrics = {}
        for name, value in SPLITS:
            chosen = (split == value) & (labels != NO_LABEL)
            # [labels, predictions]; torchmetrics would count the same, and adds two seconds to every worker's start
            counts = torch.bincount(labels[chosen] * classes + predicted[chosen], minlength=classes * classes)
            loss = losses[chosen, labels[chosen]].sum()
            sums = self.shards.group.all_reduce(torch.cat([loss.view(1), counts.double()]), "state")
            loss, counts = sums[0], sums[1:].view(classes, classes)
            if counts.sum() == 0:
                continue
            metrics[f"{name}_loss"] = float(loss / counts.sum())
            metrics[f"{name}_accuracy"] = float(counts.diagonal().sum() / counts.sum())
            present = counts.sum(1) + counts.sum(0) > 0
            f1 = 2 * counts.diagonal() / (counts.sum(0) + counts.sum(1)).clamp(min=1)
            metrics[f"{name}_macro_f1"] = float(f1[present].mean())
        return metrics

    def predictions(self, scores: Tensor) -> dict[str, Any]:
        """Columns of the owned nodes, from their scores [n, classes]: raw id, likeliest class and its probability."""
        probability, best = scores.softmax(1).max(1)
        columns = {"id": self.raw_ids(), "class": best.cpu().numpy(), "score": probability.cpu().numpy()}
        names = self.shards.store.class_names
        return {**columns, "class_name": pa.array(names).take(pa.array(columns["class"]))} if names else columns

    def raw_ids(self) -> pa.ChunkedArray:
        """The ids that the raw data knows the owned nodes by."""
        store, owned = self.shards.store, self.shards.owned
        here = parts_read(store.parts, self.shards.group, "host") or [0]
        none = store.raw_ids(here[0])[:0]  # gives a worker without shards the type of the others' column
        return pa.chunked_array([none, *(store.raw_ids(part) for part in owned)])

    def _owned(self, column: str) -> Tensor:
        """A column of the owned nodes, int64 [n]."""
        columns = [getattr(self.shards.mapped[part], column) for part in self.shards.owned]
        if any(values is None for values in columns):
            raise InputError(f"{self.shards.store.path} has no {column}. {_REMEDIES[column]}")
        return torch.cat([torch.empty(0, dtype=torch.int64), *(values.long() for values in columns)])
