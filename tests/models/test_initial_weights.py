"""A student that begins with its teacher's encoder and decoder."""

import pytest
import torch
from pair_batches import pair_batch

from framework.errors import InputError
from framework.models.translation.initial import begin_with
from framework.models.translation.layers import visible
from framework.models.translation.masked import CMLM, MaskedNetwork
from framework.models.translation.transformer import Transformer, TransformerNetwork

SIZE = {"width": 16, "heads": 2, "inner": 24}


def test_what_a_teacher_has_is_taken_and_the_rest_stays_as_drawn() -> None:
    teacher = Transformer(encoder_layers=2, decoder_layers=3, **SIZE).build(23)
    student = CMLM(encoder_layers=3, decoder_layers=2, positions="sinusoidal", longest=20, **SIZE).build(23)
    assert isinstance(teacher, TransformerNetwork)
    assert isinstance(student, MaskedNetwork)
    before = {name: weight.clone() for name, weight in student.named_parameters()}
    begin_with(student, teacher.state_dict(), of="step 'teacher'")
    theirs = dict(teacher.named_parameters())
    for name, weight in student.named_parameters():
        taken = name in theirs
        assert taken == (name.startswith("body.") and not name.startswith("body.encoder.2."))
        assert weight.equal(theirs[name] if taken else before[name]), name
    like = CMLM(encoder_layers=2, decoder_layers=3, positions="sinusoidal", longest=20, **SIZE).build(23)
    begin_with(like, teacher.state_dict(), of="step 'teacher'")
    assert isinstance(like, MaskedNetwork)
    batch = pair_batch()
    seen = visible(batch.source_lengths, batch.source.shape[1])
    read = [model.eval().body.encode(batch.source, seen) for model in (teacher, like)]
    assert read[0].equal(read[1])
    assert torch.isfinite(like(batch))


def test_weights_that_do_not_fit_are_refused() -> None:
    student = CMLM(encoder_layers=1, decoder_layers=1, longest=20, **SIZE).build(23)
    wider = Transformer(encoder_layers=1, decoder_layers=1, width=16, heads=2, inner=32).build(23)
    with pytest.raises(
        InputError, match=r"of step 'teacher': its 'encoder.0.feed_forward.first.weight' is \(24, 16\), and "
    ):
        begin_with(student, wider.state_dict(), of="step 'teacher'")
    with pytest.raises(InputError, match="which have no encoder and decoder like its own"):
        begin_with(student, torch.nn.Linear(2, 2).state_dict(), of="step 'teacher'")
