"""A run's flags: the value that a command line gives is the one that Python gives."""

import dataclasses
from typing import Any

import pytest
from launch_standins import Halves, Mean, Nested, small

from framework.config import decode, encode
from framework.data.generators import Planted, RecursiveMatrix
from framework.engine.optimize import SGD, Adam, Cosine
from framework.engine.run import Run
from framework.errors import InputError
from launch.arguments import parse_run
from launch.ray import Ray
from partitioners.random import Random
from partitioners.range import Range


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command itself."""

    json: bool = False
    """Print JSON."""


def parsed(*arguments: str, run: Run | None = None) -> Run:
    """The stand-in's run under some flags."""
    return parse_run(run or small(), arguments, Options, command="train small", example="", about="")[0]


def changed(**settings: Any) -> Run:
    """The stand-in's run with settings of its workload or itself replaced."""
    own = {field.name for field in dataclasses.fields(Run)}
    workload = {name: value for name, value in settings.items() if name not in own}
    rest = {name: value for name, value in settings.items() if name in own}
    return dataclasses.replace(small(), workload=dataclasses.replace(Mean(), **workload), **rest)


def test_the_word_none_takes_a_plug_in_away() -> None:
    there = dataclasses.replace(small(), launcher=Ray(), epochs=9)
    assert parsed("--launcher", "None", run=there) == dataclasses.replace(there, launcher=None)
    assert parsed(run=there) == there
    with pytest.raises(InputError, match="no partitioner is called 'None'"):
        parsed("--partitioner", "None")


def test_no_flags_give_the_recipe() -> None:
    assert parsed() == small()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--epochs", "7", "--workers", "3"], {"epochs": 7, "workers": 3}),
        (["--epochs=7"], {"epochs": 7}),
        (["--batch-size", "9"], {"batch_size": 9}),
        (["--batch_size", "9"], {"batch_size": 9}),
        (["--widths", "3", "2", "1"], {"widths": (3, 2, 1)}),
        (["--limit", "0.5"], {"limit": 0.5}),
        (["--patience", "3"], {"patience": 3}),
        (["--launcher", "None"], {"launcher": None}),
        (["--dtype", "float64"], {"dtype": "float64"}),
        (["--optimizer.lr", "0.1"], {"optimizer": Adam(lr=0.1)}),
        (["--optimizer.betas", "0.8", "0.9"], {"optimizer": Adam(betas=(0.8, 0.9))}),
        (["--optimizer", "sgd"], {"optimizer": SGD()}),
        (
            ["--optimizer", "sgd", "--optimizer.nesterov", "--optimizer.lr", "1"],
            {"optimizer": SGD(lr=1, nesterov=True)},
        ),
        (["--schedule", "cosine", "--schedule.warmup", "2"], {"schedule": Cosine(warmup=2)}),
        (["--partitioner", "range"], {"partitioner": Range()}),
        (["--address", "host:1", "--launcher.address=host:1"], {"launcher": Ray(address="host:1")}),
        (["--partitioner=range", "--parts", "5"], {"partitioner": Range(), "parts": 5}),
        (["--partitioner", "random"], {"partitioner": Random(seed=3)}),
        (["--partitioner.seed", "5"], {"partitioner": Random(seed=5)}),
        (["--partitioner", "range", "--partitioner", "random"], {"partitioner": Random(seed=3)}),
        (["--partitioner", "launch_standins:Halves", "--partitioner.share", "0.3"], {"partitioner": Halves(share=0.3)}),
        (
            ["--partitioner.share=1", "--partitioner.order", "down", "--partitioner", "launch_standins:Halves"],
            {"partitioner": Halves(share=1, order="down")},
        ),
        (
            ["--partitioner", "launch_standins:Nested", "--partitioner.inner.seed", "4", "--partitioner.strict"],
            {"partitioner": Nested(inner=Random(seed=4), strict=True)},
        ),
        (
            ["--partitioner", "launch_standins:Nested", "--partitioner.inner", "range"],
            {"partitioner": Nested(inner=Range())},
        ),
        (["--data.nodes", "50"], {"data": Planted(nodes=50, edges=400, blocks=4)}),
        (["--data", "rmat", "--data.scale", "5"], {"data": RecursiveMatrix(scale=5)}),
    ],
)
def test_flags_give_the_run(arguments: list[str], expected: dict[str, Any]) -> None:
    assert parsed(*arguments) == changed(**expected)


def test_a_parsed_run_survives_the_round_trip_to_json() -> None:
    run = parsed("--partitioner", "launch_standins:Nested", "--partitioner.inner", "range", "--widths", "1", "2")
    assert decode(encode(run)) == run


def test_options_of_the_command_stand_beside_the_run() -> None:
    run, options = parse_run(small(), ["--json", "--seed", "4"], Options, command="train", example="", about="")
    assert options.json
    assert run == changed(seed=4)


def test_hidden_fields_have_no_flag() -> None:
    with pytest.raises(InputError, match="no flag --out"):
        parse_run(small(), ["--out", "x"], Options, command="predict", example="", about="", hidden=["out"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--epochs", "many"], "--epochs.*'many'"),
        (["--epochs"], "--epochs"),
        (["--dtype", "float16"], "float16.*float32"),
        (["--widths", "3", "wide"], "wide"),
        (["--epoch", "3"], "no flag --epoch. Did you mean --epochs?"),
        (["--partitioner.sed", "3"], "no flag --partitioner.sed. Did you mean --partitioner.seed?"),
        (["--optimizer.gamma", "3"], "no flag --optimizer.gamma. There are --optimizer.lr, "),
        (["--data", "files", "--data.edges", "x", "--data.undirected", "True"], "--data.undirected takes no value"),
        (["--data", "files", "--data.edges", "x", "--data.undirected=false"], "--data.undirected takes no value"),
        (["--data", "npz", "--data.path", "x", "--data.undirected"], "on already; --data.no-undirected turns it off"),
        (["--optimizer", "sgd", "--optimizer.momentum", "0", "True"], "'True' was not expected. `shardyard"),
        (["again"], "'again' was not expected"),
        (["--partitioner"], "--partitioner needs a value"),
        (["--partitioner", "--epochs", "3"], "--partitioner needs a value"),
        (["--partitioner", "rnage"], "no partitioner is called 'rnage'. Did you mean 'range'?"),
        (["--partitioner", "launch_standins:Missing"], "no class or function 'Missing'"),
        (["--partitioner", "no_such_module:Thing"], "'no_such_module' cannot be imported"),
        (["--partitioner", "launch_standins:small"], "not a frozen dataclass"),
        (["--partitioner", "launch_standins:Mean"], r"has no edge_owners\(\) or owners\(\)"),
        (["--partitioner", "launch_standins:Halves"], "--partitioner.share: no value was given"),
        (["--launcher.address", "here"], "sets a launcher that was not chosen"),
        (["--address", "host:1", "--launcher", "local"], "--address is of the launcher 'ray'"),
        (
            ["--address", "host:1", "--launcher.address", "host:2"],
            "--address is 'host:1', but --launcher.address is 'ho",
        ),
        (["--workload", "launch_standins:Ambiguous"], "--epochs: a run has a field of this name too"),
        (["--workers", "0"], "--workers is 0"),
        (["--epochs", "-1"], "--epochs is -1"),
        (["--seed", "-1"], "--seed is -1; expected a whole number of at least 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=expected) as raised:
        parsed(*arguments)
    assert "\n" not in str(raised.value)
    assert not set("╭│╰─") & set(str(raised.value))


def test_help_names_every_field_and_the_known_plug_ins(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        parsed("--help")
    assert not leaving.value.code
    text = " ".join(capsys.readouterr().out.split())
    for flag in ("--epochs", "--batch-size", "--partitioner NAME", "--partitioner.seed", "--data.nodes", "--address"):
        assert flag in text
    assert "Who owns a node." in text
    assert "--workload." not in text
