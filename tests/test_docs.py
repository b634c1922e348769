"""The pages tell the truth: commands and flags exist, links lead somewhere, examples in Python run.

Assumptions: a fence marked `sh` holds commands that work as they stand; what is not to be typed so is marked `text`.
"""

import importlib
import json
import re
import shlex
from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from node_runs import small_run
from pyg_reference import full_run
from whole_graph import random_graph, random_rows

from framework.comm.halo.exact import Exact
from framework.config import encode
from framework.data.cora import VARIABLE, Cora
from framework.data.dataset import NO_SPLIT, TEST, TRAIN, VALIDATION
from framework.engine.pipeline import Pipeline
from framework.models.node_model import LayerwiseNetwork, Module
from framework.random import Key
from framework.registry import RECIPES
from framework.sample.neighbor import Neighbor
from launch import cli
from launch.commands.runs import default_out, recipe
from launch.start import start

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
OTHERS = {"write-a-partitioner.md", "bring-your-own-graph.md"}
"""Pages whose commands need a package or files that only their own tests make."""
GUIDES = sorted(ROOT.glob("docs/guides/*.md"))
GRAPHS = ROOT / "docs" / "guides" / "bring-your-own-graph.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [text for marked, text in FENCE.findall(page.read_text()) if marked == language]


def commands() -> list[str]:
    """Every line of a page that begins with `shardyard`, in the fences of commands."""
    pages = [page for page in PAGES if page.name not in OTHERS]
    lines = [
        line for page in pages for kind in ("sh", "text") for text in blocks(page, kind) for line in text.splitlines()
    ]
    return sorted({line for line in lines if line.startswith("shardyard ")} - {"shardyard COMMAND --help"})


def unknown_flags(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The flags of a command that its help, with whatever plug-ins it chooses, does not name. `folder`: a new one."""
    _, *arguments = shlex.split(line)
    if arguments[0] in ("evaluate", "predict", "translate"):  # of the folder of the recipe that it is named by
        name = Path(arguments[1]).name
        found = recipe(name if name in RECIPES.names() else "sage-debian")
        (folder / "run.json").write_text(json.dumps(encode(found)))
        arguments[1] = str(folder)
    code = cli.main([*arguments, "--help"])
    said = capsys.readouterr()
    assert code == 0, said.err
    flags = [argument for argument in arguments if argument.startswith("--") and argument != "--help"]
    return [flag for flag in flags if not re.search(rf"{re.escape(flag)}(?![\w.-])", said.out)]


@pytest.mark.parametrize("line", commands())
def test_a_command_of_a_page_exists_with_its_flags(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert unknown_flags(line, tmp_path, capsys) == []


def test_a_trained_run_has_no_flags_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So a page cannot give any."""
    line = (
        "shardyard evaluate runs/transformer-multi30k --model.beam 1 --bleu test --epochs 3 --workers 2 --model.width 9"
    )
    assert unknown_flags(line, tmp_path, capsys) == ["--epochs", "--model.width"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def folder_trained_in(line: str) -> str | None:
    """The folder that a command trains a run in. None: no run; a pipeline has a folder for every setting."""
    if not line.startswith("shardyard train "):
        return None
    _, _, name, *flags = shlex.split(line)
    if "--out" in flags:
        return flags[flags.index("--out") + 1]
    helps = any(flag.endswith("help") for flag in flags)
    return None if helps or isinstance(recipe(name), Pipeline) else default_out(name)


def test_no_two_examples_train_in_one_folder() -> None:
    """Whoever typed one would be refused the other, or told that it is finished: it needs an --out of its own."""
    lines = {
        line for page in PAGES for kind in ("sh", "text") for text in blocks(page, kind) for line in text.split("\n")
    }
    trained = defaultdict(list)
    for line in sorted(lines):
        trained[folder_trained_in(line)].append(line)
    trained.pop(None)
    assert {"runs/sage-debian", "runs/transformer-multi30k"} <= set(trained)
    assert not [examples for examples in trained.values() if len(examples) > 1]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_rows_of_a_table_have_as_many_columns(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        header, rule, *rows = table.splitlines()
        assert re.fullmatch(r"\|(?: *:?-+:? *\|)+", rule), table
        assert {row.replace(r"\|", "").count("|") for row in (rule, *rows)} == {header.count("|")}, table
        assert all(row.endswith("|") for row in rows), table


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_a_guide_leads_to_the_words_it_uses(page: Path) -> None:
    assert "](../glossary.md)" in page.read_text()


def test_quick_start_is_two_blocks() -> None:
    section = re.search(r"^## Quick start\n(.*?)(?=^## )", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    assert [marked for marked, _ in FENCE.findall(section[1])] == ["sh", "sh"]


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").glob("**/*.md")}
    left_out = {page for page in pages - {"index.md"} if not page.startswith("benchmarks/") and page not in index}
    assert not left_out


def test_the_page_of_data_has_every_recipe_and_every_variable() -> None:
    page, sources = (ROOT / "docs" / "data.md").read_text(), (ROOT / "framework" / "data").glob("*.py")
    named = re.findall(r"`([a-z0-9*-]+)`", page)
    assert not [name for name in RECIPES.names() if not any(fnmatch(name, pattern) for pattern in named)]
    assert "*" not in named
    read = {variable for source in sources for variable in re.findall(r'"(SHARDYARD_\w+)"', source.read_text())}
    assert read == set(re.findall(r"\$(SHARDYARD_\w+)", page))


def test_the_page_of_data_makes_the_file_of_cora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what PyG has, which is a small graph here."""
    data, datasets = pytest.importorskip("torch_geometric.data"), pytest.importorskip("torch_geometric.datasets")
    masks = {f"{name}_mask": torch.arange(8) % 4 == number for number, name in enumerate(("train", "val", "test"))}
    cycle = torch.stack([torch.arange(8), (torch.arange(8) + 1) % 8])
    both = torch.cat([cycle, cycle.flip(0)], dim=1)
    small = data.Data(x=torch.eye(8), y=torch.arange(8) % 2, edge_index=both, **masks)
    monkeypatch.setattr(datasets, "Planetoid", lambda folder, name: [small])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    exec(blocks(ROOT / "docs" / "data.md", "python")[0], {})
    graph = Cora().open()
    edges = np.concatenate(list(graph.edges), axis=1)
    assert sorted(edges.T.tolist()) == sorted(both.T.tolist())
    assert graph.split is not None
    assert graph.split.tolist() == [TRAIN, VALIDATION, TEST, NO_SPLIT] * 2


@pytest.mark.parametrize(("number", "name"), [(0, "Sums"), (1, "attention")])
def test_the_networks_of_the_guide_work(
    number: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = blocks(ROOT / "docs" / "guides" / "bring-your-own-model.md", "python")[number]
    if "torch_geometric" in text:
        pytest.importorskip("torch_geometric")
    (tmp_path / f"guide_{number}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    network = Module(network=f"guide_{number}:{name}").build(6, 4, 2).double().eval()
    graph, seeds = random_graph(40, 250), torch.tensor([5, 2, 30])
    x = random_rows(graph.num_nodes, 6).detach()
    sampled = Neighbor(fanouts=(-1, -1)).sample(graph, graph.nodes[seeds], Key.root(0))
    scores = network(sampled, x[sampled[0].sources.ids])
    assert scores.shape == (3, 4)
    assert isinstance(network, LayerwiseNetwork)
    whole = network.forward_layer(1, graph.block, network.forward_layer(0, graph.block, x))
    torch.testing.assert_close(scores, whole[seeds], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("number", [0, 1])
def test_the_files_of_the_guide_are_trained_on(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(blocks(GRAPHS, "python")[number], {})
    (command,) = blocks(GRAPHS, "sh")[number].splitlines()
    assert cli.main(shlex.split(command)[1:]) == 0


@pytest.mark.parametrize(("number", "name"), [(2, "Roads"), (3, "Karate")])
def test_the_data_sets_of_the_guide_are_trained_on(
    number: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = blocks(GRAPHS, "python")[number]
    if "torch_geometric" in text:
        pytest.importorskip("torch_geometric")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path(f"graph_{number}.py").write_text(text)
    Path("roads.txt").write_text("".join(f"{a} {(a * a + 1) % 40} {a % 4}\n" for a in range(40)))
    (command,) = blocks(GRAPHS, "text")
    own = {"Roads": shlex.split(command)[5:9], "Karate": []}[name]
    assert cli.main(["train", "sage-debian", "--data", f"graph_{number}:{name}", *own, "--epochs", "1"]) == 0


def test_the_matrix_of_the_guide_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(blocks(GRAPHS, "python")[4], {})
    path, cut = capsys.readouterr().out.split()
    assert (tmp_path / path / "manifest.json").exists()
    assert 0 < float(cut) < 1


def test_the_strategy_of_the_guide_is_trained_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are rounded, and at its limit it is exact."""
    (text,) = blocks(ROOT / "docs" / "guides" / "train-the-whole-graph.md", "python")
    (tmp_path / "guide_halo.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    strategy = importlib.import_module("guide_halo").Rounded
    losses = [
        start(full_run(tmp_path / name, "sage", workers=2, epochs=2, halo=halo), lambda event: None)["loss"]
        for name, halo in (("exact", Exact()), ("limit", strategy(step=0.0)), ("rounded", strategy(step=0.5)))
    ]
    assert losses[1] == losses[0]
    assert losses[2] != losses[0]


def test_the_sampler_of_the_guide_is_trained_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its limit it takes all neighbours; below it, it draws the same whoever draws."""
    text, _ = blocks(ROOT / "docs" / "guides" / "train-on-samples.md", "python")
    (tmp_path / "guide_sampler.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    thinned = importlib.import_module("guide_sampler").Thinned
    runs = {
        "all": small_run(tmp_path / "all", epochs=2, sampler=Neighbor(fanouts=(-1, -1))),
        "limit": small_run(tmp_path / "limit", epochs=2, sampler=thinned(share=1.0)),
        "half": small_run(tmp_path / "half", epochs=2, sampler=thinned()),
        "two workers": small_run(tmp_path / "two", epochs=2, sampler=thinned(), workers=2, reach="owned"),
    }
    losses = {name: start(run, lambda event: None)["loss"] for name, run in runs.items()}
    assert losses["limit"] == losses["all"]
    assert losses["half"] != losses["all"]
    assert losses["two workers"] == pytest.approx(losses["half"], rel=1e-9)


def test_the_cache_of_the_guide_is_trained_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer rows are sent, and the same is learned."""
    _, text = blocks(ROOT / "docs" / "guides" / "train-on-samples.md", "python")
    (tmp_path / "guide_cache.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    cache = importlib.import_module("guide_cache").FirstSteps(megabytes=0.02, steps=2)
    fields = {"workers": 2, "reach": "owned", "epochs": 4, "evaluate_every": 0}
    without, kept = (
        start(small_run(tmp_path / name, cache=one, **fields), lambda event: None)
        for name, one in (("without", None), ("kept", cache))
    )
    assert kept["weights_digest"] == without["weights_digest"]
    assert 0 < kept["bytes_by_lane"]["features/cache"] < kept["bytes"]["features"] < without["bytes"]["features"]
