"""Trained weights can be asked something else than in training: by fewer hypotheses, of turned copies."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sentences import sentence_run
from shapes import shape_run
from torch import Tensor, nn

from framework.comm.group import Group
from framework.config import asked, digest, encode, placement
from framework.engine.evaluate import _learned, evaluate
from framework.engine.recorded import like
from framework.engine.run import Prepared, Run, Worker
from framework.errors import InputError
from launch.arguments import parse_run
from launch.prepared import known_data
from launch.start import recorded, start


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoOptions:
    """No flags of a command's own."""


def ignore(event: Any) -> None:
    """Nobody watches."""


def changed(run: Run, **fields: Any) -> Run:
    """The run with fields of its model changed."""
    model = dataclasses.replace(run.workload.model, **fields)  # type: ignore[attr-defined]
    return dataclasses.replace(run, workload=dataclasses.replace(run.workload, model=model))  # type: ignore[type-var]


def test_weights_are_asked_anew(tmp_path: Path) -> None:
    run = sentence_run(tmp_path / "run", keep="best", epochs=2)
    report = recorded(run, ignore)
    greedy, short = changed(run, beam=1), changed(run, length_penalty=0.0)
    assert greedy.digest() != run.digest()  # it says which weights are the best
    found = [start(each, ignore, evaluate) for each in (run, greedy, short)]
    assert {each["weights_digest"] for each in found} == {report["weights_digest"]}
    assert found[0]["metrics"] == report["metrics"]
    names = ("validation_loss", "test_loss")
    assert all(each["metrics"][name] == report["metrics"][name] for each in found for name in names)
    with pytest.raises(InputError, match=r"holds another run \(other settings\); ask its weights with the settings"):
        start(changed(run, inner=20), ignore, evaluate)
    with pytest.raises(InputError, match="holds checkpoints of another run"):
        start(greedy, ignore)  # trained on, it is another run


class Told(Group):
    """A group whose first worker is on a host with the run's record, and whose second is not."""

    def __init__(self, records: list[Any]) -> None:
        super().__init__(rank=1, size=2, device=torch.device("cpu"), hosts=("one", "two"), deadline=1.0)
        self.records = records

    def gather_json(self, value: Any, purpose: str = "state") -> list[Any]:
        assert value is None
        return self.records


def test_one_record_is_enough_for_all_hosts(tmp_path: Path) -> None:
    run = sentence_run(tmp_path / "elsewhere")
    prepared = Prepared(path=tmp_path, data_digest="", seconds=0.0, facts={})

    def learned(asking: Run, *records: Any) -> str | None:
        worker = Worker(group=Told([*records]), prepared=prepared, device=torch.device("cpu"), watch=ignore)
        return _learned(asking, worker)

    assert learned(run, None, None) is None
    record = json.loads(json.dumps(encode(run)))
    assert learned(changed(run, beam=1), record, None) == run.continued().digest()
    elsewhere = dataclasses.replace(run, workers=2, out=str(tmp_path / "here"))
    assert learned(elsewhere, None, record) == run.continued().digest()
    older = {**record, "workload": {name: kept for name, kept in record["workload"].items() if name != "precision"}}
    assert learned(run, older, None) == digest({**like(older, run), "epochs": 0})  # as it was reckoned then
    with pytest.raises(InputError, match="holds another run"):
        learned(dataclasses.replace(run, seed=1), record, None)


class Projected(nn.Module):
    """A class for each of the graphs, by projections that nobody learns and no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(2, 3), persistent=False)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, graphs: Any) -> Tensor:
        sums = torch.zeros(len(graphs), 2, dtype=graphs.positions.dtype)
        of = torch.repeat_interleave(torch.arange(len(graphs)), graphs.offsets.diff())
        scores: Tensor = sums.index_add(0, of, graphs.positions.square()) @ self.projection * self.scale
        return scores


@dataclasses.dataclass(frozen=True)
class Projecting:
    """A Projected network."""

    def build(self, columns: int, dimensions: int, outputs: int) -> nn.Module:
        return Projected()


def test_what_is_drawn_and_not_kept_is_drawn_again(tmp_path: Path) -> None:
    run = shape_run(tmp_path / "run", model=Projecting(), epochs=1)
    report = start(run, ignore)
    assert [start(run, ignore, evaluate)["metrics"] for _ in range(2)] == [report["metrics"]] * 2


def test_data_that_is_gone_is_not_needed_to_ask_otherwise(tmp_path: Path) -> None:
    run = sentence_run(tmp_path / "run", epochs=1)
    recorded(run, ignore)
    asking = changed(run, beam=1)
    nowhere = dataclasses.replace(asking, workload=dataclasses.replace(asking.workload, vocabulary=65))  # type: ignore[type-var]
    assert known_data(asking, ignore) == dataclasses.replace(
        run.workload.prepare(Path(run.store), map, ignore), seconds=0.0
    )
    assert known_data(nowhere, ignore).path != known_data(asking, ignore).path


def test_flags_of_what_may_be_asked(tmp_path: Path) -> None:
    run = sentence_run(tmp_path / "run")
    settings: dict[str, Any] = {"command": "evaluate", "example": "", "about": "", "learned": "runs/it"}
    arguments = ["--model.beam", "1", "--bleu", "test", "--evaluation-tokens", "99"]
    parsed, _ = parse_run(run, arguments, NoOptions, **settings)
    assert (parsed.workload.model.beam, parsed.workload.bleu) == (1, ("test",))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"--model\.width would change what 'runs/it' learned; expected only flags"):
        parse_run(run, ["--model.width", "8"], NoOptions, **settings)


def test_what_was_learned_is_told_from_what_is_asked() -> None:
    @dataclasses.dataclass(frozen=True)
    class Value:
        learned: int = 1
        asked: int = asked(2)
        placed: int = placement(3)

    names = [set(encode(Value(), **which)) - {"plugin"} for which in ({}, {"result_only": True}, {"asked_too": False})]
    assert names == [{"learned", "asked", "placed"}, {"learned", "asked"}, {"learned", "placed"}]
