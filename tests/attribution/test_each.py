"""Many questions from one forward pass: each answered as if it were asked alone."""

import gc
import warnings
import weakref

import pytest
import torch
from snapshot import Snapshot

from captum_deconv import (
    Deconvnet,
    GuidedBackprop,
    GuidedGradCam,
    InputGradient,
    LayerDeconvnet,
    NeuronDeconvnet,
    NeuronGradient,
    compare,
    compare_each,
    strongest,
)

TARGETS = [3, 0, (4,), torch.tensor([0, 1, 2]), 3]
NEURONS = [(1, 2, 2), strongest(3), (0, slice(0, 2), 1), lambda tensor: tensor[:, 5, 7, 7]]


@pytest.fixture
def calls(model):
    """Count the forward passes."""
    counted = []
    model.register_forward_pre_hook(lambda *_: counted.append(1))
    return counted


@pytest.mark.parametrize("memory", ["light", "lean"])
@pytest.mark.parametrize(
    ("make", "questions"),
    [
        (lambda m, **how: InputGradient(m, **how), TARGETS),
        (lambda m, **how: GuidedBackprop(m, **how), TARGETS),
        (lambda m, **how: Deconvnet(m, **how), TARGETS),
        (lambda m, **how: LayerDeconvnet(m, "conv2", **how), TARGETS),
        (lambda m, **how: GuidedGradCam(m, "conv2", **how), TARGETS),
        (lambda m, **how: NeuronGradient(m, "conv2", **how), NEURONS),
        (lambda m, **how: NeuronDeconvnet(m, "conv2", **how), NEURONS),
    ],
)
def test_each_is_what_it_is_alone(make, questions, memory, model, images, calls):
    expected = [make(model).attribute(images, question) for question in questions]
    del calls[:]
    found = list(make(model, memory=memory).attribute_each(images, iter(questions)))
    assert len(calls) == 1
    assert len(found) == len(questions)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(found[0], found[1])


def test_compare_each_is_compare(model, images, calls):
    expected = [compare(model, (images,), target) for target in TARGETS]
    del calls[:]
    for found, alone in zip(compare_each(model, (images,), TARGETS), expected, strict=True):
        assert list(found) == list(alone)
        for method, (result,) in found.items():
            assert torch.equal(result, alone[method][0])
    assert len(calls) == 1
    with pytest.raises(ValueError, match="methods must be"):
        compare_each(model, images, TARGETS, methods=[])


def test_abs_and_a_gradient_function_of_captums(model, images):
    (found,) = InputGradient(model).attribute_each(images, [2], abs=True)
    assert torch.equal(found, InputGradient(model).attribute(images, 2, abs=True))
    method = GuidedBackprop(model)
    method.gradient_func = lambda *_: (torch.full_like(images, 7.0),)
    assert [part.unique().tolist() for part in method.attribute_each(images, [1, 2])] == [[7], [7]]


@pytest.mark.parametrize("bad", [5, "cat", [1, 2]])
def test_a_bad_target_in_the_middle_names_its_number(bad, model, images):
    answers = Deconvnet(model).attribute_each(images, [1, 2, bad, 3])
    assert torch.equal(next(answers), Deconvnet(model).attribute(images, 1))
    next(answers)
    with pytest.raises((AssertionError, IndexError), match=r"^targets\[2\]: "):
        next(answers)
    with pytest.raises(IndexError, match=r"^neuron_selectors\[1\]: neuron selector \(9, 0, 0\)"):
        list(NeuronDeconvnet(model, "conv1").attribute_each(images, [(0, 0, 0), (9, 0, 0)]))


def test_an_iterator_that_is_not_exhausted_leaves_no_trace(model, images):
    snapshot = Snapshot(model, images)
    answers = GuidedBackprop(model).attribute_each(images, [1, 2, 3])
    snapshot.assert_unchanged()  # nothing has begun
    result = weakref.ref(next(answers))
    snapshot.assert_unchanged()  # while it waits
    assert result() is None  # nothing is kept of what was given
    with torch.no_grad():
        next(answers)
        snapshot_inside = Snapshot(model, images)
        snapshot_inside.assert_unchanged()
    del answers
    gc.collect()
    snapshot.assert_unchanged()


def test_no_question_runs_no_pass(model, images, calls):
    assert list(Deconvnet(model).attribute_each(images, [])) == []
    assert not calls


def test_one_warning_for_all(images):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4), torch.nn.GELU())
    with pytest.warns(UserWarning, match="GELU") as said:
        list(Deconvnet(model).attribute_each(images, range(4)))
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(Deconvnet(model, uncovered="ignore").attribute_each(images, range(4)))
