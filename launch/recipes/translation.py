"""Recipes of translation from left to right: the teachers, English to German."""

from framework.data.parallel_text import ParallelText, TabSeparated
from framework.engine.optimize import Adam, Cosine
from framework.engine.run import Run
from framework.models.translation.transformer import Transformer
from framework.registry import RECIPES
from framework.workloads.translation import Translation


@RECIPES.register("transformer-multi30k")
def teacher_multi30k() -> Run:
    """Transformer on Multi30k: what 29,000 pictures show, of a size that two cores train in an hour or two."""
    workload = Translation(
        data=ParallelText(),
        model=Transformer(width=256, heads=4, inner=512, encoder_layers=3, decoder_layers=3, dropout=0.3),
        vocabulary=6000,
        batch_tokens=2048,
    )
    return _run(workload, epochs=24)


@RECIPES.register("transformer-en-de")
def teacher_en_de() -> Run:
    """Transformer on a table of 133,000 English and German descriptions of software, split by the English sentence."""
    workload = Translation(
        data=TabSeparated(),
        model=Transformer(width=256, heads=4, inner=1024, encoder_layers=3, decoder_layers=3, dropout=0.2),
        vocabulary=12000,
        batch_tokens=4096,
    )
    return _run(workload, epochs=16)


def _run(workload: Translation, *, epochs: int) -> Run:
    return Run(
        workload=workload,
        epochs=epochs,
        optimizer=Adam(lr=1.5e-3, betas=(0.9, 0.98)),
        schedule=Cosine(warmup=2, by="step"),
        evaluate_every=3,
        monitor="validation_bleu",
        keep="best",
    )
