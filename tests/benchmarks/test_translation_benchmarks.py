"""The benchmarks of translation, very small: strategies step by step, and the table of students."""

import dataclasses
import sys
from pathlib import Path

import pytest
from backwards import pipeline
from gradient_runs import worker

from framework.comm.group import Group
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

    rows, recipe = [], runs()[0]
    for name in ("all-reduce", "zero1"):
        where = {"name": name, "repeat": 0, "steps": 6, "workers": 2}
        rows.append(gradients.measured(recipe, tmp_path, where))
        harness.append(tmp_path / "rows.jsonl", rows[-1])
    assert gradients.drift(rows[1]["losses"], rows[0]["losses"]) < 1e-4
    assert len(rows[0]["losses"]) == 6
    assert min(*rows[0]["bytes"], *rows[1]["bytes"]) > 0
    gradients.render(tmp_path / "rows.jsonl", tmp_path / "table.md", recipe)
    text = (tmp_path / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["all-reduce", "zero1"]
    assert "local steps, 8; diloco, 20; fsdp; zero2 (needs DeepSpeed); zero3 (needs DeepSpeed).\n" in text
    gradients.render(tmp_path / "rows.jsonl", tmp_path / "table.md", dataclasses.replace(recipe, seed=7))
    assert "| zero1 |" not in (tmp_path / "table.md").read_text()


def test_a_row_of_the_recipe_as_it_was_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import gradients, harness

    recipe, rows = runs()[0], tmp_path / "rows.jsonl"
    made = {"losses": [1.0, 1.0], "seconds": 0.1, "bytes": [1, 1], "peaks": [1, 1]}

    def measured(recipe: Run, folder: Path, where: harness.Row) -> harness.Row:
        return {**where, **made, "run_digest": gradients.run_of(recipe, where).digest()}

    monkeypatch.setattr(gradients, "measured", measured)
    command = ["gradients", "--only", "zero1", "--rounds", "2", "--steps", "2", "--out", str(rows)]
    monkeypatch.setattr(sys, "argv", [*command, "--render", str(tmp_path / "table.md")])
    for seed, expected in ((0, 2), (0, 2), (1, 4)):
        monkeypatch.setattr(gradients, "teacher_multi30k", lambda seed=seed: dataclasses.replace(recipe, seed=seed))
        gradients.main()
        assert len(harness.read(rows)) == expected


@pytest.mark.parametrize(("name", "needed"), [("fsdp", "torch.distributed.fsdp"), ("zero2", "deepspeed")])
def test_what_a_strategy_imports_is_there_before_memory_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, needed: str
) -> None:
    from benchmarks import gradients

    (tmp_path / "deepspeed.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.delitem(sys.modules, needed, raising=False)

    class CountedError(Exception):
        """Counting begins."""

    def counted() -> None:
        assert needed in sys.modules
        raise CountedError

    monkeypatch.setattr(gradients, "PeakMemory", counted)
    run = dataclasses.replace(runs()[0], gradient=gradients.STRATEGIES[name])
    with pytest.raises(CountedError):
        gradients.stepped(run, worker(Group.alone()))
    del sys.modules[needed]  # another DeepSpeed than there may be


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
