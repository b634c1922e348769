"""Pipelines as values: what a step may use, what its digest depends on, and what a product's folder says."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from line_workload import Line
from tiny_pipeline import Points, Shifted, pipeline

from framework.config import decode, encode
from framework.engine.pipeline import Pipeline, product_digest, resolved, run_digest, uses
from framework.engine.run import Run
from framework.errors import InputError, PluginError, StoreError
from framework.made import Made
from framework.store.product import ProductFolder

RUN = Run(workload=Line())


def test_a_pipeline_survives_json() -> None:
    assert decode(encode(pipeline())) == pipeline()
    assert pipeline().digest() == pipeline().digest()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({}, "no steps"),
        ({"Teacher": RUN}, "called 'Teacher'; expected small letters"),
        ({"lambda": RUN}, "called 'lambda', which flags cannot be"),
        ({"shared": RUN}, "called 'shared', which flags cannot be"),
        ({"a.b": RUN}, r"called 'a\.b'"),
        ({"a": 3}, "step 'a' is a int; expected a Run, or a product"),
        ({"points": Points()}, "uses 'teacher', which is no step. Expected one before it; it is the first"),
        ({"teach": RUN, "points": Points()}, "Did you mean 'teach'"),
        ({"points": Points(), "teacher": RUN}, "uses 'teacher', which comes after it"),
        ({"points": Points(line=Made(step="points"))}, "step 'points' uses itself"),
    ],
)
def test_what_cannot_be_walked_is_named(steps: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Pipeline(steps=steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    """Uses steps in every place that a value has."""

    one: Made
    many: tuple[Made, ...]
    named: Mapping[str, Made]
    other: str = "kept"


def test_what_was_made_is_filled_in_wherever_it_is_used() -> None:
    names = {name: Made(step=name) for name in "abcd"}
    holder = Holder(one=names["a"], many=(names["b"], names["c"]), named={"x": names["d"]})
    assert list(uses(holder)) == list("abcd")
    made = {name: Made(step=name, digest=name * 64, path=f"at/{name}") for name in "abcd"}
    assert resolved(holder, made) == Holder(one=made["a"], many=(made["b"], made["c"]), named={"x": made["d"]})
    untouched = (RUN, "text", 3)
    assert resolved(untouched, made) is untouched


def test_a_digest_is_of_what_was_made_and_not_of_where() -> None:
    made = Made(step="teacher", digest="1" * 64, path="here")
    digest = product_digest(Points(line=made))
    assert product_digest(Points(line=dataclasses.replace(made, path="there"))) == digest
    assert product_digest(Points(line=made, pause=1.0)) == digest
    assert product_digest(Points(line=dataclasses.replace(made, digest="2" * 64))) != digest
    assert product_digest(Points(line=made, points=3)) != digest
    student = Run(workload=Shifted(by=made))
    elsewhere = Run(workload=Shifted(by=dataclasses.replace(made, path="there")), out="elsewhere", workers=2)
    assert run_digest(elsewhere, "data") == run_digest(student, "data") != run_digest(student, "other")


def test_a_products_folder_is_whole_or_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_text("bytes")
    ProductFolder.seal(tmp_path, digest="d", facts={"number": 3})
    found = ProductFolder.open(tmp_path)
    assert (found.digest, found.facts, list(found.files)) == ("d", {"number": 3}, ["inner/file"])
    with pytest.raises(PluginError, match=r"manifest\.json' itself"):
        ProductFolder.seal(tmp_path, digest="d", facts={})
    (tmp_path / "inner" / "file").write_text("bytez")
    with pytest.raises(StoreError, match="inner/file' was altered"):
        found.verify()
    (tmp_path / "inner" / "file").write_text("byte")
    with pytest.raises(StoreError, match="inner/file' has 4 bytes"):
        ProductFolder.open(tmp_path)
