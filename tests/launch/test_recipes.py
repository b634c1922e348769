"""The recipes are runs: they survive JSON, differ from one another, and say what they are."""

import dataclasses
import inspect
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from framework.config import decode, encode
from framework.data.cora import VARIABLE, Cora
from framework.engine.run import Run
from framework.errors import InputError
from framework.registry import RECIPES
from launch import cli
from launch.commands.prepare import Options
from launch.commands.runs import default_out, from_recipe, recipe

EXPECTED = {
    *("sage-debian", "gcn-debian", "gat-debian", "sage-cora"),
    *("gcn-debian-full", "gat-debian-full", "gcn-cora-full"),
    *("geogcn-superpixels", "geogcn-esol", "geogcn-freesolv"),
    *("cnn-vgg", "cnn-resnet", "cnn-densenet", "cnn-wideresnet", "cnn-resnext", "cnn-senet", "cnn-boosted", "cnn-cbam"),
}


def test_the_promised_recipes_are_there() -> None:
    assert set(RECIPES.names()) >= EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_recipe_is_a_run_that_survives_json(name: str) -> None:
    run = recipe(name)
    assert isinstance(run, Run)
    assert decode(encode(run)) == run
    assert recipe(name).digest() == run.digest()
    assert inspect.getdoc(RECIPES.get(name))


@pytest.mark.parametrize("command", ["train", "prepare"])
@pytest.mark.parametrize("name", [name for name in RECIPES.names() if isinstance(recipe(name), Run)])
def test_the_example_in_a_recipe_s_help_can_be_typed(
    name: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its flags are those of the recipe's own run."""
    assert cli.main([command, name, "--help"]) == 0
    (example,) = re.findall(r"Example: shardyard (.*)", capsys.readouterr().out)
    typed, *arguments = shlex.split(example)
    assert typed == command
    run, _ = from_recipe(arguments, Options, command=command, about="")
    assert run != dataclasses.replace(recipe(name), out=default_out(name))


def test_help_lists_the_recipes_that_a_command_takes(capsys: pytest.CaptureFixture[str]) -> None:
    pipelines = {name for name in RECIPES.names() if not isinstance(recipe(name), Run)}
    assert pipelines
    for command, left_out in (("train", set()), ("prepare", pipelines)):
        assert cli.main([command, "--help"]) == 0
        said = capsys.readouterr().out
        assert set(RECIPES.names()) - set(re.findall(r"^  ([\w-]+)  ", said, re.MULTILINE)) == left_out
        assert ("pipeline" in said) == (command == "train")


def test_no_two_recipes_learn_the_same() -> None:
    assert len({recipe(name).digest() for name in EXPECTED}) == len(EXPECTED)


def test_where_and_how_fast_is_no_part_of_what_a_recipe_learns() -> None:
    run = recipe("sage-debian")
    assert dataclasses.replace(run, workers=4, out="elsewhere").digest() == run.digest()
    assert dataclasses.replace(run, seed=1).digest() != run.digest()


def test_cora_is_looked_for_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "missing.npz"))
    with pytest.raises(InputError, match=r"missing\.npz' is not there; name it by --data.path or \$SHARDYARD_CORA"):
        recipe("sage-cora").workload.prepare(tmp_path, map, lambda event: None)
    np.savez(tmp_path / "missing.npz", edge_index=np.array([[0, 1], [1, 2]]))
    assert Cora().fingerprint() == Cora(path=str(tmp_path / "missing.npz")).fingerprint()
    assert Cora().open().edges.num_edges == 4
