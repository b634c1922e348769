"""The page `taxonomy.md`: both surveys' categories against our plug-ins, each with its exact limit and its test.

Assumptions: the rows here say which system's idea a plug-in holds. When the page is made, names are checked against the
registries and tests against their files: a plug-in that no row names, a name that no registry knows or a test that is
not there fails the page, and with it CI. A system whose idea has no plug-in says why.
"""

from pathlib import Path

from framework.registry import CACHES, GRADIENTS, HALOS, LAYOUTS, PARTITIONERS, SAMPLERS, Registry

ROOT = Path(__file__).resolve().parent.parent
KINDS: dict[str, Registry] = {
    "partitioner": PARTITIONERS,
    "sampler": SAMPLERS,
    "cache": CACHES,
    "halo": HALOS,
    "layout": LAYOUTS,
    "gradient": GRADIENTS,
}
"""The kinds that the surveys classify."""

FULL_GRAPH = "tests/test_full_graph.py::test_any_placement_equals_one_process"
ANYWHERE = "tests/test_placement_invariance.py::test_loss_and_blocks_are_the_same_anywhere"
CONFORMS = "tests/test_conformance.py::test_a_builtin_passes"
HALO_LIMIT = "tests/comm/test_halo_limits.py::test_the_limit_is_exact"
LAYOUT = "tests/comm/test_layouts.py::test_every_layout_equals_one_worker_and_sends_what_it_says"
CACHE = "tests/comm/test_caches.py::test_what_is_learned_does_not_depend_on_how_rows_are_had"
GRADIENT = "tests/comm/test_gradient_strategies.py::test_at_its_limit_every_strategy_is_all_reduce"

LIMITS: dict[str, tuple[str, str]] = {
    "partitioner dbh": ("places only", CONFORMS),
    "partitioner fennel": ("places only", CONFORMS),
    "partitioner hdrf": ("places only", CONFORMS),
    "partitioner ldg": ("places only", CONFORMS),
    "partitioner metis": ("places only", CONFORMS),
    "partitioner random": ("places only", CONFORMS),
    "partitioner range": ("places only", CONFORMS),
    "partitioner spinner": ("places only", CONFORMS),
    "sampler full": ("always", "tests/test_full_graph.py::test_one_process_equals_pyg"),
    "sampler labor": (
        "all neighbours, `-1`",
        "tests/test_placement_invariance.py::test_draws_that_nodes_share_are_as_indifferent",
    ),
    "sampler ladies": ("all neighbours, `-1`", "tests/sample/test_ladies.py::test_all_neighbours_are_exact"),
    "sampler neighbor": ("all neighbours, `-1`", ANYWHERE),
    "sampler shadow": (
        "all neighbours, `-1`, of as many hops as layers (one more for degrees)",
        "tests/sample/test_shadow.py::test_all_neighbours_of_as_many_hops_as_layers_are_the_whole_graph",
    ),
    "cache analytic": ("always", CACHE),
    "cache degree": ("always", CACHE),
    "cache presampled": ("always", CACHE),
    "halo boundary-sampled": ("`p = 1`", HALO_LIMIT),
    "halo bounded": ("`gap = 0` or `variation = 0`", HALO_LIMIT),
    "halo corrected": ("`local_steps = 0`", "tests/comm/test_corrected.py::test_a_run_s_limit_and_its_resumption"),
    "halo delayed": ("`r = 0`", "tests/comm/test_delayed.py::test_runs_at_the_limit_away_from_it_and_resumed"),
    "halo exact": ("always", FULL_GRAPH),
    "halo hierarchical": ("always", "tests/comm/test_hierarchical.py::test_rows_cross_once_and_results_are_exact"),
    "halo never": ("no cut edges", "tests/comm/test_never.py::test_training_is_that_on_the_graph_without_cut_edges"),
    "halo pipelined": ("`staleness = 0`", HALO_LIMIT),
    "halo planned": ("always", "tests/comm/test_planned.py::test_results_are_exact"),
    "halo quantized": ("`bits = 32`", "tests/comm/test_quantized.py::test_runs_at_the_limit_and_resumed"),
    "halo rematerialized": ("always", "tests/comm/test_rematerialized.py::test_results_are_exact"),
    "halo variable-rate": (
        "`first = last = 1`",
        "tests/comm/test_variable_rate.py::test_runs_at_the_limit_and_resumed",
    ),
    "layout grid-2d": ("always", LAYOUT),
    "layout owner": ("always", FULL_GRAPH),
    "layout recompute": ("always", LAYOUT),
    "layout rows-15d": ("always", LAYOUT),
    "layout rows-1d": ("always", LAYOUT),
    "layout tensor-parallel": ("always", LAYOUT),
    "gradient all-reduce": ("always", ANYWHERE),
    "gradient compressed": ("full rank", GRADIENT),
    "gradient corrected": ("`local_steps = 0`", "tests/comm/test_corrected.py::test_the_gradient_s_limits"),
    "gradient diloco": ("`inner_steps = 1`, outer SGD of rate 1", GRADIENT),
    "gradient local-steps": ("`every = 1`", GRADIENT),
    "gradient sharded": ("always", GRADIENT),
}
"""`kind name` -> the setting at which it equals the exact mode, and `file::function` of the test that shows it."""


Technique = tuple[str, str, str]
"""A category of the survey, a system, and `kind name` of the plug-in that has its idea, or why none has."""
NOT_BUILT = "not built: "

EXECUTION: tuple[Technique, ...] = (
    ("full-batch, preset workload", "partition-parallel training", "halo exact"),
    ("full-batch, preset workload", "BNS-GCN", "halo boundary-sampled"),
    ("full-batch, preset workload", "PipeGCN", "halo pipelined"),
    ("full-batch, preset workload", "SANCUS, Dorylus (staleness)", "halo bounded"),
    ("full-batch, preset workload", "DistGNN cd-r", "halo delayed"),
    ("full-batch, preset workload", "DistGNN 0c, PSGD-PA", "halo never"),
    ("full-batch, preset workload", "AdaQP, EC-Graph, Sylvie", "halo quantized"),
    ("full-batch, preset workload", "VARCO", "halo variable-rate"),
    ("full-batch, preset workload", "SAR", "halo rematerialized"),
    ("full-batch, preset workload", "hierarchical aggregation", "halo hierarchical"),
    ("full-batch, preset workload", "DGCL", "halo planned"),
    ("full-batch, preset workload", "CAGNET 1D", "layout rows-1d"),
    ("full-batch, preset workload", "CAGNET 1.5D", "layout rows-15d"),
    ("full-batch, preset workload", "CAGNET 2D", "layout grid-2d"),
    ("full-batch, preset workload", "NeutronStar", "layout recompute"),
    ("full-batch, dispatch workload", "NeuGraph, Roc", NOT_BUILT + "the partition hands out workloads, no leader"),
    ("mini-batch, individual sample", "DistDGL, AliGraph, Euler, GLT", "sampler neighbor"),
    ("mini-batch, individual sample", "LABOR", "sampler labor"),
    ("mini-batch, individual sample", "shaDow-GNN", "sampler shadow"),
    ("mini-batch, individual sample", "PaGraph", "cache degree"),
    ("mini-batch, individual sample", "SALIENT++", "cache analytic"),
    ("mini-batch, individual sample", "GNNLab, RapidGNN", "cache presampled"),
    ("mini-batch, joint sample", "LADIES, PLADIES", "sampler ladies"),
    ("mini-batch, joint sample", "LLCG", "gradient corrected"),
    ("mini-batch, joint sample", "LLCG", "halo corrected"),
    ("mini-batch, joint sample", "P3, NeutronTP", "layout tensor-parallel"),
)
"""Rows by Lin et al.'s execution types."""

AXES: tuple[Technique, ...] = (
    ("data partition, edge-cut", "hashing", "partitioner random"),
    ("data partition, edge-cut", "ranges of ids", "partitioner range"),
    ("data partition, edge-cut", "METIS", "partitioner metis"),
    ("data partition, edge-cut", "LDG", "partitioner ldg"),
    ("data partition, edge-cut", "Fennel, ReFennel", "partitioner fennel"),
    ("data partition, edge-cut", "Spinner", "partitioner spinner"),
    ("data partition, vertex-cut", "DBH", "partitioner dbh"),
    ("data partition, vertex-cut", "HDRF", "partitioner hdrf"),
    ("data partition, features by column", "P3, NeutronTP", "layout tensor-parallel"),
    ("batch generation, distributed sampling", "GraphSAGE", "sampler neighbor"),
    ("batch generation, distributed sampling", "LABOR", "sampler labor"),
    ("batch generation, distributed sampling", "LADIES", "sampler ladies"),
    ("batch generation, subgraph sampling", "shaDow-GNN", "sampler shadow"),
    ("batch generation, cache by degree", "PaGraph", "cache degree"),
    ("batch generation, cache by formula", "SALIENT++", "cache analytic"),
    ("batch generation, cache by drawing", "GNNLab, RapidGNN", "cache presampled"),
    ("batch generation, none", "full-graph training", "sampler full"),
    ("batch generation, partition as batch", "PSGD-PA", "halo never"),
    ("batch generation, partition as batch", "LLCG", "halo corrected"),
    ("execution, one-shot", "owner computes", "layout owner"),
    ("execution, chunk-sequential", "SAR, HongTu", "halo rematerialized"),
    ("execution, SpMM by matrix layout", "CAGNET", "layout grid-2d"),
    ("execution, push-pull", "P3", "layout tensor-parallel"),
    ("execution, factored or by operator", "GNNLab, ByteGNN", NOT_BUILT + "all workers do all stages of a step"),
    ("protocol, point to point", "uneven all-to-all", "halo exact"),
    ("protocol, broadcast", "CAGNET 1D", "layout rows-1d"),
    ("protocol, staleness by epochs", "PipeGCN", "halo pipelined"),
    ("protocol, staleness by epochs", "DistGNN", "halo delayed"),
    ("protocol, adaptive staleness", "Dorylus, SANCUS", "halo bounded"),
    ("protocol, staleness by variation", "SANCUS", "halo bounded"),
    ("gradients, synchronous", "DDP", "gradient all-reduce"),
    ("gradients, compressed", "PowerSGD, half precision", "gradient compressed"),
    ("gradients, local steps", "local SGD", "gradient local-steps"),
    ("gradients, local steps", "DiLoCo", "gradient diloco"),
    ("gradients, sharded", "ZeRO, FSDP", "gradient sharded"),
)
"""Rows by Shao et al.'s axes."""

TABLES = {
    "Execution types": (
        "Lin et al., *A Comprehensive Survey on Distributed Training of Graph Neural Networks*, Proc. IEEE, 2023.",
        EXECUTION,
    ),
    "Axes": (
        "Shao et al., *Distributed Graph Neural Network Training: A Survey*, ACM Computing Surveys, 2024.",
        AXES,
    ),
}
"""Title -> the survey, and its rows."""


def page(made: str) -> str:
    """The page, with the note `made`. Raises ValueError where rows, registries and tests disagree."""
    _require_complete()
    lines = [
        "# Taxonomy",
        "",
        made,
        "",
        "The two surveys of distributed training of graph networks, and where their ideas are here. Every plug-in has",
        "a limit at which it equals exact training; the test shows it.",
        "",
    ]
    for title, (survey, techniques) in TABLES.items():
        lines += [f"## {title}", "", survey, ""]
        lines += ["| category | system | plug-in | exact limit | test |", "| --- | --- | --- | --- | --- |"]
        lines += [_row(technique) for technique in techniques]
        lines.append("")
    return "\n".join(lines)


def _row(technique: Technique) -> str:
    category, system, plugin = technique
    if plugin.startswith(NOT_BUILT):
        return f"| {category} | {system} | {plugin} | | |"
    limit, test = LIMITS[plugin]
    file, _, function = test.partition("::")
    return f"| {category} | {system} | `{plugin}` | {limit} | `{function}` in `{file}` |"


def _require_complete() -> None:
    named = {plugin for *_, plugin in (*EXECUTION, *AXES) if not plugin.startswith(NOT_BUILT)}
    there = {
        f"{kind} {entry.name}"
        for kind, registry in KINDS.items()
        for entry in registry.entries()
        if entry.module.partition(".")[0] in ("framework", "partitioners")
    }
    wrong = [f"no row names '{plugin}'" for plugin in sorted(there - named)]
    wrong += [f"'{plugin}' has no limit" for plugin in sorted(there - LIMITS.keys())]
    wrong += [f"no registry knows '{plugin}'" for plugin in sorted((named | LIMITS.keys()) - there)]
    for test in sorted({test for _, test in LIMITS.values()}):
        file, _, function = test.partition("::")
        path = ROOT / file
        if not path.exists() or f"def {function}(" not in path.read_text():
            wrong.append(f"there is no test {test}")
    if wrong:
        raise ValueError("; ".join(wrong))
