"""Translation all at once: students on raw pairs, on a teacher's, and with a prior; how they choose words, how fast.

Run: python -m benchmarks.nat [--set multi30k] [--seeds 3] [--workers 1] [--precision bfloat16] [--folder build/nat]

Assumptions: one pipeline has all steps: the teacher, of one seed, its translations, the alignment and the priors, and
for every seed a student of each kind. What is there is found again, what was cut is resumed, rows that are there are
not measured again: the same command goes on where it stopped. The data is that of the recipes. A row is of its recipes
as they were: one of other settings is neither shown nor taken for a new one. Decoding is timed with one thread, models
in turns: the teacher and the last student on its pairs.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import harness
from framework.engine.folder import read_run
from framework.engine.pipeline import Pipeline, Product, uses
from framework.engine.run import Event, Run
from framework.lexicon.prior import Flattening
from framework.made import Made
from framework.models.translation.translator import Translations
from framework.samples.pairs import PairReader, PairStore
from framework.workloads.align import Align
from framework.workloads.decode import Decode, one_thread, translating_of
from framework.workloads.lexical_choice import LexicalChoice
from framework.workloads.precision import Precision
from framework.workloads.prior import Prior
from framework.workloads.samples import of_splits
from framework.workloads.translation import Translation
from launch.progress import showing
from launch.recipes.pipelines import student_en_de, student_multi30k, taught
from launch.recipes.translation import teacher_en_de, teacher_multi30k
from launch.walk import Shared, walk

ROWS = harness.ROWS / "nat.jsonl"
DOCUMENT = harness.DOCUMENTS / "nat.md"
SETS: dict[str, tuple[Callable[[], Run], Callable[[], Run]]] = {
    "multi30k": (teacher_multi30k, student_multi30k),
    "en-de": (teacher_en_de, student_en_de),
}
"""A teacher and a student on raw pairs, by the name of their data."""
SYSTEMS = ("teacher", "raw", "kd", "kd-prior", "kd-power", "kd-both")
"""kd-prior: the prior is what the alignment says; kd-power: the same flattened by a power, which is less flat; kd-both:
the mean of the first and what the raw student of seed 0 says."""
FREQUENCIES = ("H", "M", "L")
BATCHES = (1, 16, 64)  # sentences that are decoded together where decoding is timed


def main() -> None:
    """Make and measure what is missing, then render the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=list(SETS), default="multi30k")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS[:4]))
    parser.add_argument("--seeds", type=int, default=3, help="students of each kind")
    parser.add_argument("--rounds", type=int, default=5, help="how often decoding is timed")
    parser.add_argument("--workers", type=int, default=1, help="of every run")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of learning")
    parser.add_argument("--folder", type=Path, default=Path("build") / "nat", help="runs and prepared data")
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the tables")
    options = parser.parse_args()
    shared = Shared(
        workers=options.workers, out=str(options.folder / options.set), store=str(options.folder / "stores")
    )
    pipeline = pipeline_of(options.set, options.precision, options.seeds)
    where = {"set": options.set, "precision": options.precision}
    with showing(script=False) as show:
        for system in options.systems:
            for seed in range(options.seeds if system != "teacher" else 1):
                measure(pipeline, shared, {**where, "system": system, "seed": seed}, options.out, show)
        models = ["teacher", f"kd-{options.seeds - 1}"] if "kd" in options.systems else []
        turns = [
            [timing(pipeline, {**where, "model": model, "batch": batch, "repeat": repeat}) for model in models]
            for repeat in range(options.rounds)
            for batch in BATCHES
        ]
        turns = [turn for turn in turns if not all(_known(options.out, row) for row in turn)]
        report = walk(needed(pipeline, models[-1]), shared, None, show) if turns else {"steps": {}}
    for turn in turns:
        rows = []
        for row in turn:  # all models, one after the other: a turn that was cut is begun again
            told = report["steps"][row["model"]]
            environment = harness.environment(seed=0, run_digest=told["digest"], data_digest="")
            rows.append({**environment, **row, **time_decoding(Path(told["path"]), row["batch"])})
        for row in rows:
            harness.append(options.out, row)
    render(options.out, options.render)


def pipeline_of(name: str, precision: Precision, seeds: int) -> Pipeline:
    """Everything that the tables of a set need, its models learning in that precision."""

    def computing(run: Run) -> Run:
        assert isinstance(run.workload, Translation)
        return dataclasses.replace(run, workload=dataclasses.replace(run.workload, precision=precision))

    teacher, student = (computing(recipe()) for recipe in SETS[name])
    return all_steps(teacher, student, seeds)


def settings(pipeline: Pipeline, row: harness.Row) -> str:
    """A digest of all steps that a row depends on, as they are now."""
    if row["kind"] == "speed":
        return needed(pipeline, row["model"]).digest()
    return needed(pipeline, f"choice-{row['system']}-{row['seed']}").digest()


def timing(pipeline: Pipeline, row: harness.Row) -> harness.Row:
    """What tells a row of seconds from all others."""
    row = {**row, "kind": "speed"}
    return {**row, "settings": settings(pipeline, row)}


def all_steps(teacher: Run, student: Run, seeds: int) -> Pipeline:
    """Everything that the tables need; `student` is a run on raw pairs."""
    taught_by, align = Made(step="teacher"), Made(step="align")
    steps: dict[str, Run | Product] = {
        "teacher": teacher,
        "align": Align(pairs=taught_by),
        "choice-teacher-0": LexicalChoice(model=taught_by, align=align, probabilities=False),
        "decode": Decode(model=taught_by),
        "prior": Prior(align=align),
        "prior-power": Prior(align=align, flattening=Flattening(form="power")),
    }
    students = {
        "raw": dataclasses.replace(student, workload=dataclasses.replace(student.workload, begin=taught_by)),  # type: ignore[type-var]
        "kd": taught(student, prior=None),
        "kd-prior": taught(student, prior=Made(step="prior")),
        "kd-power": taught(student, prior=Made(step="prior-power")),
        "kd-both": taught(student, prior=Made(step="prior-both")),
    }
    for kind, run in students.items():
        for seed in range(seeds):
            name = f"{kind}-{seed}"
            steps[name] = dataclasses.replace(run, seed=seed)
            steps[f"choice-{name}"] = LexicalChoice(model=Made(step=name), align=align)
        if kind == "raw":
            steps["prior-both"] = Prior(align=align, student=Made(step="raw-0"))
    return Pipeline(steps=steps)


def needed(pipeline: Pipeline, last: str) -> Pipeline:
    """The steps that `last` depends on, and it: students of other kinds are left for later."""
    wanted, left = {last}, [last]
    while left:
        new = [name for name in uses(pipeline.steps[left.pop()]) if name not in wanted]
        wanted.update(new)
        left += new
    return Pipeline(steps={name: step for name, step in pipeline.steps.items() if name in wanted})


def measure(pipeline: Pipeline, shared: Shared, where: harness.Row, out: Path, show: Callable[[Event], None]) -> None:
    """The row of a system and a seed, unless it is there: walks to the step that says how words are chosen."""
    where = {**where, "kind": "quality"}
    where["settings"] = settings(pipeline, where)
    if _known(out, where):
        return
    system, seed = where["system"], where["seed"]
    name, choice = "teacher" if system == "teacher" else f"{system}-{seed}", f"choice-{system}-{seed}"
    steps = walk(needed(pipeline, choice), shared, None, show)["steps"]
    environment = harness.environment(seed=seed, run_digest=steps[name]["digest"], data_digest=steps["align"]["digest"])
    row = {
        **environment,
        **where,
        "metrics": steps[name]["metrics"],
        "choice": steps[choice]["facts"],
    }
    harness.append(out, row)


def time_decoding(folder: Path, batch: int) -> dict[str, Any]:
    """Seconds in which the run of a folder translates its test sentences, the longest first, so many at a time."""
    run = read_run(folder, trusted=True)
    prepared = run.workload.prepare(Path(run.store), map, lambda event: None)
    reader = PairReader(PairStore.open(prepared.path))
    samples = of_splits(reader.split, ["test"])
    samples = samples[reader.source_lengths[samples].argsort(descending=True, stable=True)]
    made = Made(step="", path=str(folder))
    network: nn.Module = translating_of(run, made, reader.store.vocabulary_size).network
    sources = [reader.tokens("source", chosen) for chosen in torch.split(samples, batch)]
    with one_thread(), torch.inference_mode():
        network.translate(*sources[-1])  # type: ignore[operator]
        begin = time.perf_counter()
        found: list[Translations] = [network.translate(*source) for source in sources]  # type: ignore[operator]
        seconds = time.perf_counter() - begin
    return {"seconds": seconds, "sentences": len(samples), "tokens": int(sum(each.lengths.sum() for each in found))}


def _known(out: Path, where: harness.Row) -> bool:
    return any(where.items() <= row.items() for row in harness.read(out))


# --- Tables ----------------------------------------------------------------------------------------------------------


def render(rows_path: Path, document: Path) -> None:
    """Write the tables of those rows at `rows_path` that are of the recipes as they are."""
    text = [_INTRODUCTION]
    for (name, precision), of_set in harness.grouped(harness.read(rows_path), "set", "precision").items():
        of_set = _current(name, precision, of_set)
        quality = [row for row in of_set if row["kind"] == "quality"]
        speed = [row for row in of_set if row["kind"] == "speed"]
        text += [f"## {name}, learned in {precision}\n\n", _quality(quality), "\n", _speed(speed)]
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text("".join(text))


def _current(name: str, precision: Precision, rows: Sequence[harness.Row]) -> list[harness.Row]:
    seeds = 1 + max((row["seed"] for row in rows if row["kind"] == "quality"), default=0)
    pipeline = pipeline_of(name, precision, seeds)
    return [row for row in rows if row["settings"] == settings(pipeline, row)]


def _quality(rows: Sequence[harness.Row]) -> str:
    """BLEU and lexical choice of every system, over seeds."""
    groups = harness.grouped(rows, "system")
    body = []
    for system in SYSTEMS:
        if (system,) not in groups:
            continue
        group = groups[(system,)]
        bleu = _spread([row["metrics"]["test_bleu"] for row in group], 1)
        chosen = [_chosen(group, measure, bucket) for measure in ("probability", "hit") for bucket in FREQUENCIES]
        teachers = len({row["data_digest"] for row in group})  # the alignment's, which depends on the teacher's weights
        body.append([system, str(len(group)), str(teachers), bleu, *chosen])
    names = [f"AoLC-{measure}, {bucket}" for measure in ("prob", "hit") for bucket in FREQUENCIES]
    return harness.markdown(["system", "runs", "teachers", "BLEU", *names], body)


def _chosen(rows: Sequence[harness.Row], measure: str, bucket: str) -> str:
    """A measure of lexical choice, in percent, for the words of a bucket of frequency; empty where there is none."""
    told = [row["choice"][measure]["rank"]["by_bucket"] for row in rows if measure in row["choice"]]
    return _spread([100 * buckets[bucket] for buckets in told if bucket in buckets], 1)


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation; the mean alone of one value."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def _speed(rows: Sequence[harness.Row]) -> str:
    """Seconds of decoding by the size of a batch, medians over turns of a teacher and a student on one machine."""
    body = []
    for (batch,), group in harness.grouped(rows, "batch").items():
        turns: dict[Any, dict[str, float]] = {}
        for row in group:
            model = "teacher" if row["model"] == "teacher" else "student"
            turns.setdefault((row["machine"], row["git"], row["repeat"]), {})[model] = row["seconds"]
        taken = [[turn[model] for turn in turns.values() if len(turn) == 2] for model in ("teacher", "student")]
        if all(taken):
            cells = [f"{statistics.median(each):.1f} ({min(each):.1f}-{max(each):.1f})" for each in taken]
            times = statistics.median(taken[0]) / statistics.median(taken[1])
            body.append([f"{batch} of {group[0]['sentences']:,}", *cells, f"{times:.1f}x"])
    return harness.markdown(["sentences at a time", "teacher, s", "student, s", "faster"], body)


_INTRODUCTION = """# Translation all at once, from a teacher and a prior

Rendered by `python -m benchmarks.nat` from `benchmarks/rows/nat.jsonl`: English to German, the recipes of the
[guide](../guides/translate.md). All students begin with the teacher's encoder and two of its decoder's layers. *raw*:
CMLM on raw pairs; *kd*: on the teacher's translations; *kd-prior*: with a prior from the alignment of the raw pairs;
*kd-power*: with that flattened by a power instead of a softmax; *kd-both*: with the mean of the first and of what a raw
student says. Mean and standard deviation over runs, each with a seed of its own for the student. A machine has one
teacher, of one seed, and one prior of each kind; a processor of another kind adds in another order, and by the last
epoch its teacher is another: *teachers* says how many stand behind a line.

*BLEU*: of the test sentences, by sacrebleu, detokenised, at the best validation BLEU; students make ten passes, the
teacher has a beam of five. *AoLC*: accuracy of lexical choice, percent; *prob*: the probability of the reference's word
where only the reference's length is told; *hit*: how often what was written has the reference's word. *H, M, L*: thirds
of the source types, by how often they are in the training pairs. *s*: of translating all test sentences with one
thread, median (fastest and slowest).

"""


if __name__ == "__main__":
    main()
