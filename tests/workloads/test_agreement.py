"""Steps that share pairs say so before the first of them is walked."""

import dataclasses
import sys
from typing import Any

import pytest
from backwards import Rhymes, pipeline

from framework.data.distilled import Distilled
from framework.engine.pipeline import Pipeline
from framework.engine.run import Run
from framework.errors import InputError
from framework.lexicon.fast_align import FastAlign
from framework.models.translation.levenshtein import Levenshtein
from framework.models.translation.transformer import Transformer
from framework.workloads.prior import Prior
from framework.workloads.translation import Translation


def changed(step: str, **fields: Any) -> Pipeline:
    """The pipeline with fields of a step, or of its workload, changed."""
    steps = dict(pipeline().steps)
    value = steps[step]
    if isinstance(value, Run):
        value = dataclasses.replace(value, workload=dataclasses.replace(value.workload, **fields))  # type: ignore[type-var]
    else:
        value = dataclasses.replace(value, **fields)  # type: ignore[type-var]
    return Pipeline(steps={**steps, step: value})


def test_what_differs_and_may_is_taken() -> None:
    model = Levenshtein(width=16, heads=2, inner=32, encoder_layers=1, decoder_layers=1)
    assert changed("student", model=model, batch_tokens=100).steps
    plain = dict(changed("student", prior=None).steps)
    student = plain["student"]
    assert isinstance(student, Run)
    spelled = dataclasses.replace(student, workload=dataclasses.replace(student.workload, vocabulary=50, begin=None))  # type: ignore[type-var]
    kept = [name for name in plain if name not in ("choice", "prior")]
    assert Pipeline(steps={**{name: plain[name] for name in kept}, "student": spelled}).steps  # it spells for itself


def test_an_aligner_that_is_not_installed_is_missed_before_a_teacher_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "systran_align", None)
    with pytest.raises(
        InputError, match=r"step 'align': the aligner `fast-align` needs .*: install shardyard\[align\]"
    ):
        changed("align", aligner=FastAlign())


def test_pairs_and_vocabularies_have_to_agree() -> None:
    with pytest.raises(
        InputError, match=r"step 'student': prior is what step 'prior' made with a vocabulary of 70, and "
    ):
        changed("teacher", vocabulary=70)
    student = pipeline().steps["student"]
    assert isinstance(student, Run)
    workload = student.workload
    assert isinstance(workload, Translation)
    assert isinstance(workload.data, Distilled)
    other = dataclasses.replace(workload.data, of=dataclasses.replace(Rhymes(), pairs=7))
    with pytest.raises(
        InputError, match=r"step 'student': data\.decoded is what step 'decode' made of Rhymes\(.*; give both"
    ):
        changed("student", data=other)
    with pytest.raises(InputError, match=r"step 'choice': model is what step 'student' made with a vocabulary of 50"):
        changed("student", prior=None, begin=None, vocabulary=50)
    steps = dict(pipeline().steps)
    steps["raw"] = changed("student", data=Rhymes(), prior=None).steps["student"]
    steps["raw"] = dataclasses.replace(
        steps["raw"], workload=dataclasses.replace(workload, data=Rhymes(), prior=None, begin=None, vocabulary=9)
    )
    steps["both"] = dataclasses.replace(steps["prior"], student=dataclasses.replace(workload.data.decoded, step="raw"))
    assert isinstance(steps["both"], Prior)
    with pytest.raises(InputError, match=r"step 'both': student is what step 'raw' made with a vocabulary of 9"):
        Pipeline(steps=steps)


def test_a_prior_is_for_models_that_learn_from_it() -> None:
    with pytest.raises(InputError, match="prior is given by step 'prior', but --model transformer learns from none"):
        changed("student", model=Transformer(width=16, heads=2, inner=32, encoder_layers=1, decoder_layers=1))


def test_a_precision_that_a_type_does_not_leave_is_told_before_a_teacher_is_trained() -> None:
    steps = dict(changed("student", precision="bfloat16").steps)
    steps["student"] = dataclasses.replace(steps["student"], dtype="float64")  # type: ignore[type-var]
    with pytest.raises(InputError, match="step 'student': --precision is bfloat16 and --dtype float64"):
        Pipeline(steps=steps)


def test_a_student_learns_from_translations_of_the_training_pairs() -> None:
    with pytest.raises(
        InputError, match=r"step 'student': --decode\.split is 'test', and the student .* expected 'train'"
    ):
        changed("decode", split="test")


def test_probabilities_are_asked_of_those_that_write_all_words_at_once() -> None:
    model = Transformer(width=16, heads=2, inner=32, encoder_layers=1, decoder_layers=1)
    with pytest.raises(
        InputError, match=r"step 'choice': step 'student' trains a transformer, .* as by --choice\.no-probabilities"
    ):
        changed("student", model=model, prior=None)
    steps = dict(pipeline().steps)
    steps["student"] = changed("student", prior=None).steps["student"]
    steps["choice"] = dataclasses.replace(steps["choice"], probabilities=False)  # type: ignore[type-var]
    student = steps["student"]
    assert isinstance(student, Run)
    learned = dataclasses.replace(student.workload, model=model)  # type: ignore[type-var]
    assert Pipeline(steps={**steps, "student": dataclasses.replace(student, workload=learned)}).steps


def test_a_student_is_as_wide_as_the_teacher_that_it_begins_with() -> None:
    student = pipeline().steps["student"]
    assert isinstance(student, Run)
    model = dataclasses.replace(student.workload.model, inner=40)  # type: ignore[attr-defined]
    with pytest.raises(
        InputError, match=r"step 'student': --model\.inner is 40, and 32 in the model with whose weights"
    ):
        changed("student", model=model)
    assert changed("student", model=model, begin=None).steps
