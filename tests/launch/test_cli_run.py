"""A run from the command line: trained, resumed, inspected, measured again, and asked what it predicts."""

import errno
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from node_runs import same_metrics

from launch import cli
from launch.commands.runs import FolderOptions, from_folder

SETTINGS = {
    "data": "planted",
    "data.nodes": 300,
    "data.edges": 3000,
    "data.blocks": 6,
    "data.classes": 3,
    "data.features": 8,
    "model.hidden": 8,
    "batch-size": 64,
    "partitioner": "range",
    "parts": 2,
}
SMALL = [f"--{name}={value}" for name, value in SETTINGS.items()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this file live; the first test trains what the others look at."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def train(*arguments: str) -> int:
    return cli.main(["train", "sage-debian", *SMALL, "--epochs", "3", *arguments])


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The JSON that a command prints, and nothing else."""
    assert cli.main([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    found = json.loads(printed.out)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def report(home: Path) -> dict[str, Any]:
    """The report of a run in its default folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert train() == 0
    found = json.loads((home / "runs" / "sage-debian" / "report.json").read_text())
    assert isinstance(found, dict)
    return found


def test_the_report_has_what_is_promised(report: dict[str, Any]) -> None:
    assert {
        *("workload", "workers", "parts", "partitioner", "epochs", "loss", "metrics", "seconds", "bytes"),
        *("run_digest", "data_digest", "weights_digest", "versions"),
    } <= set(report)
    assert (report["workload"], report["parts"], report["partitioner"], report["epochs"]) == ("nodes", 2, "range", 3)
    assert len(report["loss"]) == 3
    assert {"test_accuracy", "validation_accuracy"} <= set(report["metrics"])
    assert {"prepare", "start", "epoch_median", "total"} <= set(report["seconds"])
    assert {"frontier", "features", "halo", "gradient", "total"} <= set(report["bytes"])


def test_json_on_stdout_is_the_report_file(capsys: pytest.CaptureFixture[str], report: dict[str, Any]) -> None:
    assert train("--json", "--out", "again") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    found = json.loads(printed.out)
    assert found == json.loads(Path("again/report.json").read_text())
    assert found["weights_digest"] == report["weights_digest"]


def test_without_json_a_pipe_gets_a_line_an_epoch_and_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--out", "plain") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch ")] == ["1/3", "2/3", "3/3"]
    assert any(line.split()[:2] == ["test", "accuracy"] for line in lines)


@pytest.mark.usefixtures("report")
def test_a_finished_run_started_again_only_reports(capsys: pytest.CaptureFixture[str]) -> None:
    assert train() == 0
    out = capsys.readouterr().out
    assert "resumed after epoch 3" in out
    assert "epoch 3/3" not in out


@pytest.mark.usefixtures("report")
def test_another_run_in_the_folder_is_refused_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--seed", "5") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "holds another run: seed was 0, is now 5." in printed.err


def test_evaluate_measures_what_training_did(capsys: pytest.CaptureFixture[str], report: dict[str, Any]) -> None:
    found = answer(capsys, "evaluate", "runs/sage-debian")
    assert found["metrics"] == report["metrics"]
    assert found["weights_digest"] == report["weights_digest"]


@pytest.mark.usefixtures("report")
def test_evaluate_names_the_flags_that_would_change_what_was_learned(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model.hidden", "16", "--workers", "2", "--seed=4", "--optimizer", "sgd", "--batch_size", "3"]
    assert cli.main(["evaluate", "runs/sage-debian", *flags]) == 2
    said = capsys.readouterr().err
    assert "--model.hidden, --seed, --optimizer, --batch-size would change what 'runs/sage-debian' learned" in said


@pytest.mark.usefixtures("report")
@pytest.mark.parametrize("command", ["evaluate", "predict", "translate"])
def test_help_of_a_folder_shows_the_flags_that_say_where_it_runs(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    everywhere = {"--workers", "--device", "--launcher", "--address", "--store", "--deadline", "--trust", "--json"}
    everywhere |= {"evaluate": set(), "predict": {"--out", "--embeddings"}, "translate": {"--out", "--text"}}[command]
    everywhere -= {"--workers", "--device", "--deadline"} if command == "translate" else set()
    of_folder = everywhere | {"--parts", "--partitioner", "--layout", "--paths", "--reach", "--topology-reach"}
    of_folder |= {"--ahead", "--cache"}
    for folder, expected in (([], everywhere), (["runs/sage-debian"], of_folder)):
        assert cli.main([command, *folder, "--help"]) == 0
        shown = set(re.findall(r"^\W+ (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
        assert shown == expected


@pytest.mark.usefixtures("report")
def test_a_folder_says_nothing_of_where_it_is_asked_unless_it_is_trusted(tmp_path: Path) -> None:
    """A stranger's would join a cluster of its own choice, or start as many processes as it likes."""
    shutil.copytree("runs/sage-debian", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record |= {"workers": 64, "launcher": {"plugin": "launcher:ray", "address": "127.0.0.1:9"}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0
    found = [
        from_folder([str(tmp_path / "run"), *flags], FolderOptions, command="evaluate", about="", example="")[0]
        for flags in ([], ["--trust"], ["--workers", "3"])
    ]
    assert [(run.workers, run.launcher is None) for run in found] == [(1, True), (64, False), (3, True)]


def test_evaluate_takes_another_partition(capsys: pytest.CaptureFixture[str], report: dict[str, Any]) -> None:
    chosen = ["--partitioner", "random", "--partitioner.seed", "4", "--parts", "3", "--store", "others"]
    found = answer(capsys, "evaluate", "runs/sage-debian", *chosen)
    assert same_metrics(found["metrics"], report["metrics"])


@pytest.fixture(params=[[], ["--store=stores"], ["--store={}/stores"]], ids=["default", "relative", "absolute"])
def without_raw_data(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The folder, of another directory, of a run whose raw data is gone, and the data prepared for it is not."""
    edges = np.random.default_rng(0).integers(0, 60, (2, 400))
    labels, features = np.arange(60) % 3, np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    np.savez(tmp_path / "raw.npz", edge_index=edges, y=labels, x=features)
    out, data = (
        tmp_path / "run",
        ["--data", "npz", f"--data.path={tmp_path / 'raw.npz'}", "--data.shares", "0.5", "0.2"],
    )
    small = [f"--{name}={value}" for name, value in SETTINGS.items() if not name.startswith("data")]
    store = [flag.format(tmp_path) for flag in request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert cli.main(["train", "sage-debian", *data, *small, "--epochs=1", "--out=run", *store]) == 0
    (tmp_path / "raw.npz").unlink()
    return out


def test_a_trained_run_is_asked_without_its_raw_data(
    capsys: pytest.CaptureFixture[str], without_raw_data: Path
) -> None:
    capsys.readouterr()
    found, report = answer(capsys, "evaluate", str(without_raw_data)), without_raw_data / "report.json"
    assert found["metrics"] == json.loads(report.read_text())["metrics"]
    assert answer(capsys, "predict", str(without_raw_data))["rows"] == 60
    assert cli.main(["evaluate", str(without_raw_data), "--store", "elsewhere"]) == 2
    assert "raw.npz" in capsys.readouterr().err


def test_a_folder_is_moved_with_its_store(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "before")
    assert train("--out", "run") == 0
    for name in ("run", "stores"):
        Path(name).rename(tmp_path / "after" / name)
    monkeypatch.chdir(tmp_path / "after")
    capsys.readouterr()
    answer(capsys, "evaluate", "run")
    assert not (tmp_path / "before" / "stores").exists()


def test_another_placement_needs_the_raw_data(capsys: pytest.CaptureFixture[str], without_raw_data: Path) -> None:
    assert cli.main(["evaluate", str(without_raw_data), "--parts", "5"]) == 2
    assert "raw.npz" in capsys.readouterr().err
    shutil.rmtree(without_raw_data.parent / "stores")
    assert cli.main(["evaluate", str(without_raw_data)]) == 2
    assert "raw.npz" in capsys.readouterr().err


def test_predict_writes_a_class_for_every_node(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "predict", "runs/sage-debian", "--out", "classes.parquet")
    table = parquet.read_table("classes.parquet")
    assert found == {"path": "classes.parquet", "rows": 300, "columns": table.column_names}
    assert table["id"].to_pylist() == list(range(300))
    assert set(table["class"].to_pylist()) <= {0, 1, 2}


@pytest.mark.usefixtures("report")
def test_predict_elsewhere_leaves_the_folders_file_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """So that two that predict at once do not take each other's file."""
    inside = Path("runs/sage-debian/predictions.parquet")
    assert answer(capsys, "predict", "runs/sage-debian")["path"] == str(inside.absolute())
    before, names = inside.stat(), sorted(Path("runs/sage-debian").iterdir())
    answer(capsys, "predict", "runs/sage-debian", "--out", "classes.parquet")
    assert parquet.read_table("classes.parquet") == parquet.read_table(inside)
    after = inside.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(Path("runs/sage-debian").iterdir()) == names
    inside.unlink()


@pytest.mark.usefixtures("report")
def test_predict_writes_embeddings(capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "predict", "runs/sage-debian", "--embeddings", "--out", "embeddings.parquet")
    table = parquet.read_table("embeddings.parquet")
    assert table.column_names == ["id", "embedding"]
    assert {len(row) for row in table["embedding"].to_pylist()} == {8}


@pytest.mark.usefixtures("report")
def test_predict_into_a_folder_that_is_not_there_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "runs/sage-debian", "--out", "nowhere/x.parquet"]) == 2
    assert "no folder 'nowhere'" in capsys.readouterr().err
    assert cli.main(["predict", "runs/sage-debian", "--out", "graph.npz"]) == 2
    assert "--out is 'graph.npz'; expected a name that ends in .parquet" in capsys.readouterr().err


@pytest.mark.usefixtures("report")
def test_predict_loses_nothing_where_the_disk_is_full(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: str, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    Path("x.parquet").write_bytes(b"of before")
    monkeypatch.setattr("launch.commands.predict.shutil.move", full)
    assert cli.main(["predict", "runs/sage-debian", "--out", "x.parquet"]) == 2
    assert "error: 'x.parquet' cannot be written: No space left on device. It is in '" in capsys.readouterr().err
    assert Path("x.parquet").read_bytes() == b"of before"
    assert not list(Path().glob(".*.torn"))


@pytest.mark.usefixtures("report")
def test_predict_loses_nothing_where_a_name_cannot_be_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("folder.parquet").mkdir()
    assert cli.main(["predict", "runs/sage-debian", "--out", "folder.parquet"]) == 2
    assert "--out is 'folder.parquet', which is a folder; expected the name of a file" in capsys.readouterr().err

    rename = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if Path(target).name == "x.parquet":  # somebody else's, say
            raise OSError(errno.EPERM, "Operation not permitted")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    assert cli.main(["predict", "runs/sage-debian", "--out", "x.parquet"]) == 2
    told = re.search(
        r"'x.parquet' cannot be written: Operation not permitted. It is in '(.*)'\.", capsys.readouterr().err
    )
    assert told is not None
    assert parquet.read_table(told[1]).num_rows > 0
    assert not list(Path().glob(".*.torn"))


def test_prepare_finds_the_store_that_training_made(capsys: pytest.CaptureFixture[str], report: dict[str, Any]) -> None:
    found = answer(capsys, "prepare", "sage-debian", *SMALL)
    assert found["data_digest"] == report["data_digest"]
    assert found["quality"]["node_balance"] == 1.0
    assert (Path(str(found["path"])) / "manifest.json").exists()


def test_inspect_tells_store_run_and_checkpoint_apart(
    capsys: pytest.CaptureFixture[str], report: dict[str, Any]
) -> None:
    run = answer(capsys, "inspect", "runs/sage-debian", "--verify")
    assert (run["kind"], run["verified"]) == ("run", True)
    assert run["facts"]["report.weights_digest"] == report["weights_digest"]
    assert run["facts"]["workload.partitioner"] == "partitioner:range"
    (store,) = Path("stores").glob("[0-9a-f]*")
    found = answer(capsys, "inspect", str(store), "--verify")
    assert (found["kind"], found["facts"]["nodes"]) == ("store", 300)
    checkpoint = max(Path("runs/sage-debian/checkpoints").iterdir())
    found = answer(capsys, "inspect", str(checkpoint))
    assert (found["kind"], found["facts"]["epoch"]) == ("checkpoint", 3)
    assert found["facts"]["weights_digest"] == report["weights_digest"]


@pytest.mark.usefixtures("report")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("runs/sage-debian/log.jsonl", "is a file; expected the folder of a shard store (manifest.json), a checkpoint"),
        ("runs/sage-debian/log.jsonl", "Give 'runs/sage-debian'."),
        ("runs/sage-debian/checkpoints/000003-00000000/model.safetensors", "Give 'runs/sage-debian/checkpoints/000"),
        ("runs/sage-debian/checkpoints", "is none of ours; expected the folder of"),
        ("runs/sage-debian/checkpoints", "checkpoints/000003-00000000' or 'runs/sage-debian'."),
        ("runs", "Give 'runs/sage-debian'."),
        ("nowhere", "'nowhere' is not there; expected the folder of"),
    ],
)
def test_inspect_names_the_path_to_give_instead(path: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", path]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.usefixtures("report")
@pytest.mark.parametrize("name", ["model.safetensors", "checkpoints/000003-00000000/model.safetensors"])
def test_inspect_finds_a_flipped_byte_of_a_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("runs/sage-debian") / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        assert cli.main(["inspect", "runs/sage-debian", "--verify"]) == 2
    finally:
        path.write_bytes(whole)
    assert "model.safetensors" in capsys.readouterr().err


def test_a_failing_workload_ends_with_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "launch_standins:small", "--out", "standin"]) == 2
    assert capsys.readouterr().err == "error: this workload is a stand-in\n"
    assert json.loads(Path("standin/log.jsonl").read_text().splitlines()[0])["event"] == "prepare"


def test_check_passes_a_built_in_and_fails_a_bad_one(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "check", "partitioner", "range")
    assert found["passed"]
    assert {row["name"] for row in found["qualities"]} >= {"range", "random", "metis"}
    assert cli.main(["check", "partitioner", "launch_standins:Halves", "--share", "0.5", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["passed"]
    assert any("parts from 0 to 1" in check["detail"] for check in found["checks"])


OUTSIDE = '''
"""A recipe and a partitioner of somebody else."""

import dataclasses

import numpy as np

from framework.engine.run import Run
from launch.recipes.nodes import sage_debian


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stripes:
    """Nodes in turn."""

    first: int
    """The part of node 0."""

    def owners(self, graph, parts):
        return ((np.arange(graph.num_nodes) + self.first) % parts).astype(np.int32)


def mine() -> Run:
    return dataclasses.replace(sage_debian(), epochs=1)
'''


def test_a_recipe_and_a_plug_in_of_the_current_folder_run_on_two_workers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outside.py").write_text(OUTSIDE)

    def shardyard(*arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-P", "-m", "launch.cli", *arguments, "--json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return dict(json.loads(done.stdout))

    chosen = ["--partitioner", "outside:Stripes", "--partitioner.first", "1", "--workers", "2"]
    report = shardyard("train", "outside:mine", *SMALL, *chosen)
    assert (report["partitioner"], report["workers"], report["epochs"]) == ("outside:Stripes", 2, 1)
    folder = tmp_path / "runs" / "outside.mine"
    assert (folder / "report.json").exists()

    # Whoever only has the folder imports nothing of it unasked.
    assert cli.main(["evaluate", str(folder)]) == 2
    assert "'outside:Stripes' is of a module that no installed plug-in announces" in capsys.readouterr().err
    assert cli.main(["inspect", str(folder)]) == 0
    assert "outside:Stripes" in capsys.readouterr().out
    assert "outside" not in sys.modules
    assert shardyard("evaluate", "runs/outside.mine", "--trust")["weights_digest"] == report["weights_digest"]


@pytest.mark.parametrize("launcher", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_run_that_is_ended_says_how_to_resume_it(launcher: str, tmp_path: Path) -> None:
    arguments = [*SMALL, "--epochs=100000", "--evaluate-every=0", "--launcher", launcher]
    command = [sys.executable, "-P", "-m", "launch.cli", "train", "sage-debian", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith("epoch ") for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert said == "error: ended by SIGTERM. The same command resumes the run from its last checkpoint.\n"
    assert process.returncode == 143


@pytest.mark.slow
def test_the_demo_compares_two_partitioners_and_reaches_its_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "demo")
    assert [row["partitioner"] for row in found["partitions"]] == ["metis", "fennel"]
    assert (found["graph"]["packages"], found["graph"]["dependencies"]) == (63_436, 327_212)
    assert found["report"]["workers"] == 2
    assert found["report"]["metrics"]["test_accuracy"] >= 0.84
