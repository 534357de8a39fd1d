import pytest
import torch

from captum_deconv.explain.question import Question, QuestionError, find_target, parse_neuron
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


def test_neurons():
    assert parse_neuron("strongest") == (None, ())
    assert parse_neuron("12") == (12, ())
    assert parse_neuron("12:3:4") == (12, (3, 4))
    for text in ("", "a", "1:", "1:a:2", "1.5"):
        with pytest.raises(QuestionError, match="CHANNEL"):
            parse_neuron(text)


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
