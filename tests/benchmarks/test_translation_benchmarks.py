"""The benchmarks of translation, very small: strategies step by step, and the table of students."""

import dataclasses
import sys
from pathlib import Path

import pytest
from backwards import pipeline

from framework.comm.gradient.all_reduce import AllReduce
from framework.comm.gradient.sharded import Sharded
from framework.engine.run import Run
from framework.workloads.translation import Translation


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


def runs() -> tuple[Run, Run]:
    """A teacher and a student on raw pairs."""
    steps = pipeline().steps
    teacher, student = steps["teacher"], steps["student"]
    assert isinstance(teacher, Run)
    assert isinstance(teacher.workload, Translation)
    assert isinstance(student, Run)
    assert isinstance(student.workload, Translation)
    model = dataclasses.replace(teacher.workload, model=student.workload.model)
    return teacher, dataclasses.replace(student, workload=model)


def test_strategies_are_compared_step_by_step(tmp_path: Path) -> None:
    from benchmarks import gradients, harness

    rows = []
    for name, strategy in {"all-reduce": AllReduce(), "zero1": Sharded(stage="zero1")}.items():
        where = {"name": name, "repeat": 0, "steps": 6, "workers": 2}
        rows.append(gradients.measured(runs()[0], strategy, tmp_path, where))
        harness.append(tmp_path / "rows.jsonl", rows[-1])
    assert gradients.drift(rows[1]["losses"], rows[0]["losses"]) < 1e-4
    assert len(rows[0]["losses"]) == 6
    assert min(*rows[0]["bytes"], *rows[1]["bytes"]) > 0
    gradients.render(tmp_path / "rows.jsonl", tmp_path / "table.md")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[-2:]] == ["all-reduce", "zero1"]


def test_a_students_table_needs_no_step_twice_nor_one_too_many(tmp_path: Path) -> None:
    from benchmarks import nat

    steps = nat.all_steps(*runs(), 2)
    assert list(nat.needed(steps, "choice-raw-1").steps) == ["teacher", "align", "raw-1", "choice-raw-1"]
    assert set(nat.needed(steps, "kd-prior-0").steps) == {"teacher", "align", "decode", "prior", "kd-prior-0"}
    assert "raw-0" in nat.needed(steps, "kd-both-1").steps


@pytest.mark.slow
def test_the_table_of_students_is_made_by_one_command_that_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import harness, nat

    teacher, student = runs()
    monkeypatch.setitem(nat.SETS, "multi30k", (lambda: teacher, lambda: student))
    rows, table = tmp_path / "rows.jsonl", tmp_path / "table.md"
    command = ["nat", "--seeds", "1", "--rounds", "1", "--folder", str(tmp_path / "nat"), "--out", str(rows)]
    monkeypatch.setattr(sys, "argv", [*command, "--render", str(table), "--systems", "teacher", "kd"])
    nat.main()
    before = harness.read(rows)
    assert {row["kind"] for row in before} == {"quality", "speed"}
    nat.main()
    assert harness.read(rows) == before
    text = table.read_text()
    for shown in ("| teacher | 1 |", "| kd | 1 |", "AoLC-hit, L", "64 of 15"):
        assert shown in text
    other = dataclasses.replace(student, epochs=student.epochs + 1)
    monkeypatch.setitem(nat.SETS, "multi30k", (lambda: teacher, lambda: other))
    nat.render(rows, table)
    text = table.read_text()
    assert "| teacher | 1 |" in text
    assert "| kd | 1 |" not in text  # of the recipe as it was
