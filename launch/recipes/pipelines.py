"""Recipes of translation all at once: students, and the pipelines in which they learn from a teacher and a prior.

Ding et al., "Understanding and improving lexical choice in non-autoregressive translation", ICLR 2021, at a size of two
cores: a teacher learns from raw pairs and translates them anew for the student; the raw pairs are aligned, and what
they say of rare words, which the teacher forgets, becomes the student's prior.
"""

import dataclasses

from framework.data.distilled import Distilled
from framework.engine.optimize import Adam, Cosine
from framework.engine.pipeline import Pipeline, Product
from framework.engine.run import Run
from framework.made import Made
from framework.models.translation.masked import CMLM
from framework.models.translation.transformer import Transformer
from framework.registry import RECIPES
from framework.workloads.align import Align
from framework.workloads.decode import Decode
from framework.workloads.lexical_choice import LexicalChoice
from framework.workloads.prior import Prior
from framework.workloads.translation import Translation
from launch.recipes.translation import teacher_en_de, teacher_multi30k


@RECIPES.register("cmlm-multi30k")
def student_multi30k() -> Run:
    """CMLM on the raw pairs of Multi30k: what a student comes to without a teacher."""
    return student_of(teacher_multi30k(), epochs=30)


@RECIPES.register("cmlm-en-de")
def student_en_de() -> Run:
    """CMLM on the raw pairs of the larger table of English and German."""
    return student_of(teacher_en_de(), epochs=24)


@RECIPES.register("nat-multi30k")
def nat_multi30k() -> Pipeline:
    """Teacher, its translations, alignment, prior and student on Multi30k, and how well the student chooses words."""
    return distillation(teacher_multi30k(), student_multi30k())


@RECIPES.register("nat-multi30k-kd")
def nat_multi30k_kd() -> Pipeline:
    """As nat-multi30k, without a prior: the student learns from the teacher alone."""
    return distillation(teacher_multi30k(), student_multi30k(), prior=False)


@RECIPES.register("nat-en-de")
def nat_en_de() -> Pipeline:
    """As nat-multi30k, on the larger table of English and German, split by the English sentence."""
    return distillation(teacher_en_de(), student_en_de())


def student_of(teacher: Run, *, epochs: int) -> Run:
    """A student of the teacher's size on its own pairs.

    Its decoder runs ten times, over whole sentences: it has a third of the layers less, and one length is tried, or it
    would not be faster than the teacher's beam (docs/decisions.md). Places are told as there, so that it can begin with
    the teacher's weights."""
    workload = teacher.workload
    assert isinstance(workload, Translation)
    assert isinstance(workload.model, Transformer)
    size = workload.model
    model = CMLM(
        width=size.width,
        heads=size.heads,
        inner=size.inner,
        encoder_layers=size.encoder_layers,
        decoder_layers=size.decoder_layers - size.decoder_layers // 3,
        positions=size.positions,
        dropout=0.2,  # what is hidden keeps it from learning by heart, too, and a teacher's words vary less
        deviation=size.width**-0.5,  # as wide as Xavier's; BERT's are for three times the width
        length_beam=1,
        lengths="expected",
        merge_repeats=True,
    )
    return dataclasses.replace(
        teacher,
        workload=dataclasses.replace(workload, model=model),
        epochs=epochs,
        optimizer=Adam(lr=1e-3, betas=(0.9, 0.98)),
        schedule=Cosine(warmup=3, by="step"),
        evaluate_every=5,
    )


def distillation(teacher: Run, student: Run, *, prior: bool = True) -> Pipeline:
    """The steps from a teacher to a student that learns from it; both are runs on the same raw pairs.

    `prior`: whether the student is also told what raw pairs say of its words."""
    align = Align(pairs=Made(step="teacher"))
    steps: dict[str, Run | Product] = {"teacher": teacher, "decode": Decode(model=Made(step="teacher")), "align": align}
    if prior:
        steps["prior"] = Prior(align=Made(step="align"))
    steps["student"] = taught(student, prior=Made(step="prior") if prior else None)
    steps["choice"] = LexicalChoice(model=Made(step="student"), align=Made(step="align"))
    return Pipeline(steps=steps)


def taught(student: Run, *, prior: Made | None) -> Run:
    """A student's run on what the step `decode` made, from the weights of `teacher`, with a prior if there is one."""
    workload = student.workload
    assert isinstance(workload, Translation)
    data = Distilled(of=workload.data, decoded=Made(step="decode"))
    learning = dataclasses.replace(workload, data=data, prior=prior, begin=Made(step="teacher"))
    return dataclasses.replace(student, workload=learning)
