"""Caches: what is learned does not depend on them, and what they choose is what their formulas say."""

import dataclasses
import functools
import itertools
import re
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from node_runs import GRAPH, VARIANTS, chosen_on, foreseen, small_run, under_way, variants

from framework.comm.cache import presampled
from framework.comm.cache.analytic import Analytic
from framework.comm.cache.degree import Degree
from framework.comm.cache.policy import chosen
from framework.comm.cache.presampled import Presampled
from framework.comm.features import KeptRows
from framework.comm.group import CPU, Group
from framework.data.dataset import TRAIN
from framework.engine.run import Worker
from framework.errors import InputError, PluginError
from framework.sample.full import Full
from framework.sample.labor import Labor
from framework.sample.ladies import Ladies
from framework.sample.shadow import Shadow
from framework.workloads.node_rows import finished
from framework.workloads.nodes import NodeTask
from launch.start import start

ROW = 8 + 4 * GRAPH.features  # bytes of an id and of its features


def ignore(event: Any) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two epochs, three workers that read their own shards alone, rows had in every way."""
    run = small_run(tmp_path_factory.mktemp("runs") / "run", workers=3, reach="owned", epochs=2, evaluate_every=0)
    return start(run, ignore, variants)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "plain"])
def test_what_is_learned_does_not_depend_on_how_rows_are_had(reports: dict[str, Any], name: str) -> None:
    for same in ("loss", "metrics", "weights_digest", "run_digest"):
        assert reports[name][same] == reports["plain"][same], same


def test_batches_begun_early_send_the_same(reports: dict[str, Any]) -> None:
    for name in ("one ahead", "all ahead", "no room"):
        assert reports[name]["bytes"]["features"] == reports["plain"]["bytes"]["features"] > 0
        assert reports[name]["bytes"]["gradient"] == reports["plain"]["bytes"]["gradient"]
    for name in ("one ahead", "all ahead"):
        assert reports[name]["bytes"]["frontier"] == reports["plain"]["bytes"]["frontier"] > 0


def test_neighbours_that_are_drawn_from_memory_are_asked_of_nobody(reports: dict[str, Any]) -> None:
    for name in ("edges everywhere", "edges everywhere, none ahead"):
        assert reports[name]["bytes"]["features"] == reports["plain"]["bytes"]["features"]
        steps = 2 * 4  # of two epochs
        numbers = 3 * 2 * 8 * (steps + 1)  # of rows that are asked for: in every step, and once in evaluation
        assert reports[name]["bytes"]["frontier"] == numbers < reports["plain"]["bytes"]["frontier"]


def test_rows_that_are_kept_are_sent_once(reports: dict[str, Any]) -> None:
    rows = 5000 // ROW  # of the .005 megabytes
    for name in ("degree", "presampled", "analytic"):
        assert reports[name]["bytes_by_lane"]["features/cache"] == 3 * rows * ROW
        assert reports[name]["bytes"]["features"] < reports["plain"]["bytes"]["features"]
    assert reports["room for all"]["bytes_by_lane"]["features/cache"] > 3 * rows * ROW


@pytest.mark.parametrize(("ahead", "counts"), [(0, [0, 0, 0, 0]), (2, [2, 2, 1, 0])])
def test_rows_come_while_the_batch_before_is_computed(tmp_path: Path, ahead: int, counts: list[int]) -> None:
    run = small_run(tmp_path / "run", workers=2, reach="owned", batch_size=200, ahead=ahead)
    assert start(run, ignore, under_way)["counts"] == counts


def test_a_cache_that_keeps_nothing_is_told_of(tmp_path: Path) -> None:
    notes: list[str] = []
    run = small_run(tmp_path / "run", cache=Degree(), epochs=1)
    start(run, lambda event: notes.append(event["text"]) if event["event"] == "note" else None)
    assert notes == ["--cache keeps nothing: workers read all rows by memory (--reach)"]


SAMPLERS = [None, Labor(fanouts=(4, 3)), Shadow(fanouts=(4, 3), layers=3), Shadow(fanouts=(4, 3, 5), layers=2)]


@pytest.fixture(scope="module", params=SAMPLERS, ids=["neighbor", "labor", "shadow", "shadow, more hops than layers"])
def workers(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Of every worker: what `foreseen` says."""
    fields = {"sampler": request.param} if request.param else {}
    run = small_run(tmp_path_factory.mktemp("runs") / "run", workers=3, reach="owned", parts=6, **fields)
    return list(start(run, ignore, foreseen)["workers"])


def test_presampled_is_what_will_be_used_most(workers: list[dict[str, Any]]) -> None:
    missed = 0
    for worker in workers:
        uses = np.array(worker["uses"])
        for nodes in worker["chosen"].values():
            assert len(set(nodes)) == len(nodes) == 100
            assert not set(nodes) & set(worker["owned"])
        hits = {name: uses[nodes].sum() for name, nodes in worker["chosen"].items()}
        assert hits["presampled"] == np.sort(uses)[-100:].sum() == max(hits.values())
        assert min(hits.values()) > 1.2 * 100 * uses.sum() / (GRAPH.nodes - len(worker["owned"]))  # than any nodes
        missed += uses.sum() - hits["presampled"]
    assert sum(worker["sent"] for worker in workers) == missed * ROW


def edges() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sources and targets of the graph, and which of its nodes are for training."""
    raw = GRAPH.open()
    sources, targets = (np.concatenate(ends) for ends in zip(*raw.edges, strict=True))
    return sources, targets, np.asarray(raw.split) == TRAIN


def test_degree_counts_edges_into_own_nodes(workers: list[dict[str, Any]]) -> None:
    sources, targets, _ = edges()
    for worker in workers:
        own = np.isin(np.arange(GRAPH.nodes), worker["owned"])
        counts = np.bincount(sources[own[targets] & ~own[sources]], minlength=GRAPH.nodes)
        assert counts[worker["chosen"]["degree"]].tolist() == sorted(counts.tolist(), reverse=True)[:100]


def test_analytic_is_the_formula(workers: list[dict[str, Any]]) -> None:
    sources, targets, training = edges()
    degree = np.bincount(targets, minlength=GRAPH.nodes)
    for worker in workers:
        own = np.isin(np.arange(GRAPH.nodes), worker["owned"])
        now = np.where(own & training, 256 / training.sum(), 0.0)
        never = np.ones(GRAPH.nodes)
        for fanout in (4, 3):
            missed = np.ones(GRAPH.nodes)
            np.multiply.at(missed, sources, 1 - now[targets] * np.minimum(1, fanout / degree[targets]))
            now, never = 1 - missed, never * missed
        likely = np.where(own, -1.0, 1 - never)
        best = np.sort(likely)[::-1][:100]
        np.testing.assert_allclose(likely[worker["chosen"]["analytic"]], best, rtol=1e-4)


def test_what_is_chosen_does_not_depend_on_where_the_network_computes(tmp_path: Path) -> None:
    for worker in start(small_run(tmp_path / "run", workers=2, reach="owned"), ignore, chosen_on)["workers"]:
        assert worker["meta"] == worker["cpu"]
        assert all(len(nodes) == 100 for nodes in worker["cpu"].values())


def test_rows_that_are_kept_are_found() -> None:
    rows = torch.arange(6.0).view(3, 2)
    kept = KeptRows(ids=torch.tensor([3, 5, 9]), rows=rows)
    hit, fill = kept.among(torch.tensor([9, 1, 10, 3, 4, 5]), torch.tensor([0, 1, 2, 3, 4]))
    assert hit.tolist() == [True, False, False, True, False]
    fill(out := torch.zeros(6, 2))
    assert out.tolist() == [rows[2].tolist(), [0, 0], [0, 0], rows[0].tolist(), [0, 0], [0, 0]]
    nothing, _ = KeptRows(ids=torch.empty(0, dtype=torch.int64), rows=torch.empty(0, 2)).among(kept.ids, kept.ids[:0])
    assert nothing.tolist() == []


def test_uses_are_counted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presampled, "_AT_ONCE", 5)
    uses, added = presampled._Uses(), torch.randint(0, 30, (400,), generator=torch.Generator().manual_seed(0))
    for some in added.split(7):
        uses.add(some)
    ids, counts = uses.counted()
    expected = torch.bincount(added, minlength=30)
    assert ids.tolist() == torch.nonzero(expected).flatten().tolist()
    assert counts.tolist() == expected[ids].tolist()
    assert uses.counted()[1].tolist() == counts.tolist(), "nothing is counted twice"


class Told:
    """Rows of a batch, which say when they are told to go on."""

    def __init__(self, number: int, notes: list[str]) -> None:
        self.number, self.notes = number, notes

    def send_ids(self) -> None:
        self.notes.append(f"which {self.number}")

    def send_rows(self) -> None:
        self.notes.append(f"rows {self.number}")


def test_a_batch_is_held_by_whoever_computes_with_it() -> None:
    begun: list[weakref.ref[Any]] = []

    def begin(number: int) -> tuple[Any, Callable[[], int]]:
        finish = functools.partial(int, number)
        begun.append(weakref.ref(finish))
        return Told(number, []), finish

    for early, ahead in itertools.product((False, True), (0, 1, 10)):
        begun.clear()
        lead = ahead + 2 if early and ahead else ahead
        for number in finished(map(begin, range(4)), ahead, early=early):
            assert begun[number]() is None
            assert len(begun) == min(4, number + 1 + lead)


def test_what_is_wanted_is_said_before_rows_are_sent() -> None:
    notes: list[str] = []
    begun: Iterator[Any] = (
        (Told(number, notes), functools.partial(notes.append, f"finish {number}")) for number in range(5)
    )
    for number, _ in enumerate(finished(begun, 1, early=True)):
        notes.append(f"compute {number}")
    first = ["which 2", "rows 1", "rows 0", "finish 0", "compute 0"]
    last = ["rows 4", "finish 4", "compute 4"]
    assert notes[:5] == first
    assert notes[5:10] == ["which 3", "rows 2", "rows 1", "finish 1", "compute 1"]
    assert notes[-3:] == last


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([0], "chose a list; expected int64 [n]"),
        (torch.zeros(2), "chose torch.float32 [2]; expected int64 [n]"),
        (torch.zeros(2, 1, dtype=torch.int64), "chose torch.int64 [2, 1]; expected int64 [n]"),
        (torch.arange(4), "chose 4 nodes; expected at most 3"),
        (torch.tensor([2, GRAPH.nodes]), "chose node 1500; expected ids from 0 to 1499"),
        (torch.tensor([-1]), "chose node -1; expected ids from 0 to 1499"),
        (torch.tensor([3, 2, 3]), "chose a node twice"),
        (torch.tensor([7]), "chose node 7, which is read by memory; expected far ones"),
    ],
)
def test_what_somebody_elses_cache_may_not_choose(lone: NodeTask, answer: Any, told: str) -> None:
    with pytest.raises(PluginError, match=rf"^cache 'test_caches:Answering' {re.escape(told)}.*Mend its choose\(\)\.$"):
        chosen(Answering(answer=answer), lone.outlook(0), 3)
    assert chosen(Answering(answer=torch.arange(0)), lone.outlook(0), 3).tolist() == []


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> NodeTask:
    """One worker, which reads all nodes by memory."""
    run = small_run(tmp_path_factory.mktemp("lone") / "run")
    prepared = run.workload.prepare(Path(run.store), map, ignore)
    task = run.workload.open(run, Worker(group=Group.alone(), prepared=prepared, device=CPU, watch=ignore))
    assert isinstance(task, NodeTask)
    return task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answering:
    """A cache of somebody else's."""

    answer: Any
    megabytes: float = 1.0

    def choose(self, outlook: Any, most: int) -> Any:
        """The same, whatever is asked."""
        return self.answer


def test_a_cache_of_samplers_without_fanouts_says_which_to_take(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", workers=2, reach="owned", epochs=1, cache=Analytic())
    own = dataclasses.replace(run.workload, sampler=WithoutFanouts())
    with pytest.raises(InputError, match="choose --cache presampled"):
        start(dataclasses.replace(run, workload=own), ignore)


def test_caches_of_draws_for_all_workers_together(tmp_path: Path) -> None:
    settings = {"sampler": Ladies(budgets=(300, 200)), "workers": 2, "reach": "owned", "epochs": 1}
    plain, presampled, degree = (
        start(small_run(tmp_path / f"{number}", cache=cache, **settings), ignore)
        for number, cache in enumerate((None, Presampled(megabytes=0.005), Degree(megabytes=0.005)))
    )
    assert presampled["weights_digest"] == degree["weights_digest"] == plain["weights_digest"]
    assert presampled["bytes"]["features"] < degree["bytes"]["features"] < plain["bytes"]["features"]
    with pytest.raises(InputError, match="choose --cache presampled, or degree"):
        start(small_run(tmp_path / "analytic", cache=Analytic(), **settings), ignore)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithoutFanouts:
    """A sampler of somebody else's."""

    depth: int = 1
    whole: bool = False

    def sample(self, graph: Any, seeds: Any, key: Any) -> list[Any]:
        """All neighbours."""
        raise AssertionError("nothing is drawn")


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--cache.megabytes is -1"):
        Degree(megabytes=-1)
    with pytest.raises(InputError, match="--cache.megabytes is nan"):
        Analytic(megabytes=float("nan"))
    with pytest.raises(InputError, match="--cache.epochs is 0; expected at least 1"):
        Presampled(epochs=0)
    with pytest.raises(InputError, match="--ahead is -1"):
        small_run(tmp_path, ahead=-1)
    with pytest.raises(InputError, match="--cache is for sampled training"):
        small_run(tmp_path, cache=Degree(), sampler=Full(layers=2))
