"""Listing plug-ins, the help of every command, and the one line that anything wrong comes to."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from framework.registry import PARTITIONERS, REGISTRIES
from launch import cli, tables


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that succeeds prints."""
    assert cli.main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "--help") == output(capsys)
    for name in cli.COMMANDS:
        assert f"\n  {name} " in output(capsys)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, name, "--help")
    assert f"usage: shardyard {name}" in text
    assert f"Example: shardyard {name}" in text


def test_list_names_the_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert {f"{kind}s" for kind in REGISTRIES} == {row["kind"] for row in json.loads(output(capsys, "list", "--json"))}
    assert "shardyard.partitioners" in output(capsys, "list")


@pytest.mark.parametrize("kind", REGISTRIES)
def test_list_json_has_exactly_the_promised_keys(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(output(capsys, "list", f"{kind}s", "--json"))
    assert [row["name"] for row in rows] == REGISTRIES[kind].names()
    for row in rows:
        assert list(row) == ["name", "module", "summary", "fields"]
        assert row["summary"]
        assert all(isinstance(value, str) for value in row["fields"].values())


def test_the_table_shows_what_the_json_says_and_singular_is_plural(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "list", "partitioner")
    assert text == output(capsys, "list", "partitioners")
    for entry in PARTITIONERS.entries():
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [entry.name]]
        assert entry.summary in line
        assert line.endswith(entry.module)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["traim"], "there is no command 'traim'. Did you mean 'train'?"),
        (["list", "partitoners"], "Did you mean 'partitioners'?"),
        (["list", "--jsn"], "there is no flag --jsn. Did you mean --json?"),
        (["train"], "name the recipe first: shardyard train RECIPE"),
        (["train", "--workers", "2"], "name the recipe first: shardyard train RECIPE"),
        (["evaluate"], "name the run's folder first: shardyard evaluate RUN_FOLDER"),
        (["train", "sage-debain"], "no recipe is called 'sage-debain'. Did you mean 'sage-debian'?"),
        (["train", "no_such_module:recipe"], "module 'no_such_module' cannot be imported"),
        (["train", "./standins.py:recipe"], "expected MODULE:NAME, as roads:Roads for Roads in roads.py"),
        (["train", "sage-debian", "--lr", "0.1"], "there is no flag --lr. Did you mean --optimizer.lr?"),
        (["train", "sage-debian", "--out", ""], "--out is empty; expected a folder"),
        (["train", "sage-debian", "--halo", "quantized"], "--halo quantized is for training on the whole graph"),
        (["train", "launch_standins:wrong"], "returned a int; expected a framework.engine.run.Run"),
        (["train", "launch_standins:demanding"], "cannot be called without arguments"),
        (["train", "launch_standins:NOT_A_CLASS"], "no class or function 'NOT_A_CLASS'"),
        (["train", "sage-debian", "--partitioner", "fenel"], "Did you mean 'fennel'?"),
        (["train", "sage-debian", "--epochs", "many"], "--epochs: expected a whole number, not 'many'."),
        (["train", "sage-debian", "--optimizer.lr", "x"], "--optimizer.lr: expected a number, not 'x'."),
        (["check"], "check needs a kind and a plug-in"),
        (["check", "sampler", "neighbor"], "no conformance suite for a sampler"),
        (["inspect", "no-such-folder"], "'no-such-folder' is not there"),
        (["inspect"], "PATH"),
        (["evaluate", "no-such-folder"], "'no-such-folder/run.json' is not there"),
        (["predict", "no-such-folder", "--out", "x.parquet"], "'no-such-folder/run.json' is not there"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err


def test_a_defect_is_one_line_too_and_the_traceback_is_for_who_asks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(arguments: list[str]) -> int:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("launch.commands.list.command", broken)
    assert cli.main(["list"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ZeroDivisionError: by nothing (test_cli_list.py:")
    assert printed.count("\n") == 1
    monkeypatch.setenv("SHARDYARD_DEBUG", "1")
    assert cli.main(["list"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("leaving", "said"), [("'MY_DATA is not set'", "MY_DATA is not set"), ("3", "3"), ("0", "0")])
def test_a_module_that_leaves_is_no_success(
    leaving: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"leaving_{said[0].lower()}"
    (tmp_path / f"{name}.py").write_text(f"import sys\nsys.exit({leaving})\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.main(["train", f"{name}:recipe"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: SystemExit: {said} ({name}.py:2")
    assert printed.count("\n") == 1


def test_a_module_with_a_slip_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slipped.py").write_text("def recipe(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.main(["train", "slipped:recipe"]) == 2
    assert "module 'slipped' cannot be imported: SyntaxError" in capsys.readouterr().err


def test_without_a_place_to_print_nothing_fails() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m launch.cli list >&-', sys.executable],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_table_shows_what_it_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    """And reads no markup, and no code of an emoji, in it."""
    odd = ("c1cc[nH]c1", "runs/[/x]", "[bold]", ":smile:")
    tables.show([f"h {name}" for name in odd], [odd], title=" ".join(f"t {name}" for name in odd))
    said = capsys.readouterr().out
    for name in odd:
        assert [said.count(f"{kind}{name}") for kind in ("t ", "h ", "")] == [1, 1, 3]


def test_json_has_no_word_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_json({"loss": [0.5, float("nan")], "metrics": {"rmse": float("inf")}})
    assert json.loads(capsys.readouterr().out) == {"loss": [0.5, None], "metrics": {"rmse": None}}


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(errno.ENOSPC, 2, "error: a disk is full: OSError"), (errno.EIO, 1, "error: OSError: [Errno 5]")],
)
def test_an_error_of_a_disk_is_one_line(
    number: int, code: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(arguments: list[str]) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("launch.commands.list.command", failing)
    assert cli.main(["list"]) == code
    printed = capsys.readouterr().err
    assert printed.startswith(said)
    assert printed.count("\n") == 1


def test_an_interrupt_ends_with_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("launch.commands.list.command", interrupted)
    assert cli.main(["list"]) == 130
    assert capsys.readouterr().err == "error: interrupted.\n"


def test_help_and_the_list_of_kinds_come_without_torch() -> None:
    code = (
        "import sys; from launch import cli; cli.main(['--help']); cli.main(['list']); cli.main(['doctor', '--help']);"
        "sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_errors_read_the_same_on_a_terminal_without_box_characters(encoding: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "launch.cli", "doctor", "--address"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    expected = (
        "error: Missing value for argument '--address'. Expected 1 values. `shardyard doctor --help` lists the flags.\n"
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (2, "", expected)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("command", [["list"], ["list", "samplers", "--json"], ["--help"]], ids=" ".join)
def test_an_output_that_takes_no_more_is_told_once(command: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "launch.cli", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "error: a disk is full" in done.stderr


def test_a_reader_that_leaves_is_no_failure() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.cli", "list", "samplers", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait()) == (b"", 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("report.json", "[]", "report.json' holds a list; expected an object"),
        ("pipeline.json", "{}", "pipeline.json' is no pipeline's: it has no steps"),
    ],
)
def test_a_file_of_something_else_is_no_defect(
    name: str, content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content)
    assert cli.main(["inspect", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["inspect", "evaluate"])
def test_a_name_that_no_disk_takes_is_no_defect(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "x" * 300]) == 2
    assert "cannot be read: File name too long" in capsys.readouterr().err
