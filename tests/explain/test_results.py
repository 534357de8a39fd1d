import pytest
import torch
from safetensors.torch import save_file

from captum_deconv.explain.results import (
    Neuron,
    Result,
    Score,
    load_results,
    save_results,
)


def make_result(name="a.png", size=4, **parts):
    inputs = torch.rand(3, size, size)
    return Result(name, inputs, inputs, {"guided_backprop": inputs - 0.5}, **parts)


def test_round_trip(tmp_path):
    score = Score(3, "tabby", 0.5)
    results = [
        make_result("a.png", target=score, top=(score,)),
        make_result("b.png", neuron=Neuron("features.3", 2, (1, 4), 0.25)),
    ]
    save_results(results, tmp_path / "r.safetensors", {"model": "tiny"})
    tensors, record = load_results(tmp_path / "r.safetensors")
    assert set(tensors) == {"inputs", "guided_backprop"}
    for number, result in enumerate(results):
        assert torch.equal(tensors["inputs"][number], result.inputs)
        assert torch.equal(
            tensors["guided_backprop"][number], result.attributions["guided_backprop"]
        )
    assert record["model"] == "tiny"
    assert record["methods"] == ["guided_backprop"]
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    first, second = record["images"]
    assert first["target"] == {"index": 3, "label": "tabby", "probability": 0.5}
    assert second["neuron"]["place"] == [1, 4]


def test_one_batch_needs_one_size(tmp_path):
    with pytest.raises(ValueError, match="one size"):
        save_results([make_result(), make_result(size=5)], tmp_path / "r.safetensors", {})
    with pytest.raises(ValueError, match="one size"):
        save_results([], tmp_path / "r.safetensors", {})
    assert not list(tmp_path.iterdir())


def test_foreign_safetensors(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="something else"):
        load_results(tmp_path / "a.safetensors")
