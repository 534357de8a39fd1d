import pytest
import torch

from captum_deconv.explain.question import (
    Question,
    QuestionError,
    find_target,
    find_targets,
    parse_neurons,
)
from captum_deconv.sources.models import UnknownNameError

NAMES = ["tench", "tiger cat", "Egyptian cat", "catamaran", "crane", "crane", "tabby"]
SCORES = torch.tensor([0.0, 1.0, 5.0, 2.0, 3.0, 4.0, 0.5])


@pytest.mark.parametrize(
    ("text", "index"),
    [
        (None, 2),
        ("auto", 2),
        ("0", 0),
        ("-1", 6),
        ("TENCH", 0),
        ("tiger cat", 1),
        ("egyptian", 2),
        ("tama", 3),
    ],
)
def test_targets(text, index):
    assert find_target(text, NAMES, SCORES) == index


def test_targets_that_are_none():
    for text in ("7", "-8"):
        with pytest.raises(IndexError, match="0 to 6"):
            find_target(text, NAMES, SCORES)
    with pytest.raises(UnknownNameError, match="several classes: 4 crane, 5 crane"):
        find_target("crane", NAMES, SCORES)
    with pytest.raises(UnknownNameError, match="1 tiger cat, 2 Egyptian cat"):
        find_target("cat", NAMES, SCORES)  # and not the catamaran
    with pytest.raises(UnknownNameError, match="did you mean tabby"):
        find_target("tabbi", NAMES, SCORES)
    with pytest.raises(UnknownNameError, match="no names"):
        find_target("tabby", None, SCORES)
    with pytest.raises(UnknownNameError, match="no label"):
        find_target("[", NAMES, SCORES)  # text, not a pattern


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        (None, [2]),
        ("0, egyptian,0 ,-1", [0, 2, 6]),
        ("top3", [2, 5, 4]),
        ("TOP7", [2, 5, 4, 3, 1, 6, 0]),
        ("auto,tench", [2, 0]),
    ],
)
def test_several_targets(text, indices):
    assert find_targets(text, NAMES, SCORES) == indices
    assert Question(target=text).count() >= len(indices)


def test_a_name_may_hold_a_comma():
    names = ["Black, white", "white", *NAMES[2:]]
    assert find_targets("black, WHITE", names, SCORES) == [0]
    assert find_targets("white,black", names, SCORES) == [1, 0]


def test_several_targets_that_are_none():
    for text in ("top0", "top8"):
        with pytest.raises(IndexError, match="top1 to top7"):
            find_targets(text, NAMES, SCORES)
    for text in ("0,,1", "0,dog"):
        with pytest.raises(UnknownNameError):
            find_targets(text, NAMES, SCORES)
    with pytest.raises(IndexError, match="0 to 6"):
        find_targets("0,7", NAMES, SCORES)


def test_neurons():
    assert parse_neurons("strongest") == [(None, ())]
    assert parse_neurons("12") == [(12, ())]
    assert parse_neurons("-1") == [(-1, ())]
    assert parse_neurons("12:3:-4") == [(12, (3, -4))]
    several = [(3, ()), (0, ()), (1, ()), (2, ()), (1, (4, 4)), (None, ())]
    assert parse_neurons("3, 0-2,1:4:4 ,2,strongest") == several
    assert Question(layer="a", neuron="3,0-2,1:4:4,2,strongest").count() == len(several)
    for text in ("", "a", "1:", "1:a:2", "1.5", "3-1", "1,", "1-", "0-1000000", "1-2-3"):
        with pytest.raises(QuestionError, match="CHANNEL"):
            parse_neurons(text)


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ({"neuron": "1"}, "needs its layer"),
        ({"neuron": "1", "layer": "a", "target": "3"}, "exclude"),
        ({"neuron": "1", "layer": "a", "methods": ("guided_gradcam",)}, "not a neuron"),
        ({"neuron": "x", "layer": "a"}, "CHANNEL"),
        ({"methods": ("guided_gradcam",)}, "needs a convolutional layer"),
        ({"methods": ("deconvnet",), "layer": "a"}, "needs a neuron"),
    ],
)
def test_contradictions(parts, word):
    with pytest.raises(QuestionError, match=word):
        Question(**parts)


def test_all_methods():
    rules = ["input_gradient", "guided_backprop", "deconvnet"]
    assert Question().list_methods() == rules
    assert Question(layer="a").list_methods() == [*rules, "guided_gradcam"]
    assert Question(layer="a", neuron="1").list_methods() == rules
    assert Question(("deconvnet", "all")).list_methods() == [rules[2], *rules[:2]]
