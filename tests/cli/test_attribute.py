import subprocess
import sys
from importlib import metadata

import pytest
import torch
from command import assert_one_line, network
from PIL import Image
from safetensors.torch import save_file

import captum_deconv
from captum_deconv.explain.results import load_results
from captum_deconv.sources.models import load_model


def test_help_teaches(call):
    for words in ([], ["attribute"], ["coverage"], ["demo"]):
        result = call(*words, "--help")
        assert result.exit_code == 0
        assert f"captum-deconv {' '.join(words)}".strip() in result.stdout
        assert "Example" in result.stdout


def test_version(call):
    result = call("--version")
    assert result.exit_code == 0
    assert metadata.version("captum-deconv") in result.stdout
    assert metadata.version("torch") in result.stdout


def test_help_waits_for_nothing_heavy():
    code = (
        "import sys\n"
        "from captum_deconv.cli import app\n"
        "try: app(['attribute', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(', '.join({'torch', 'captum', 'matplotlib', 'PIL'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_module_runs_as_a_program():
    command = [sys.executable, "-m", "captum_deconv", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("captum-deconv ")


def test_all_methods_of_several_images(call, folder, tmp_path):
    images = [folder / "one.png", folder / "two.jpg"]
    result = call(
        *("attribute", *images, "-m", network(), "-t", "egyptian"),
        *("--device", "cpu", "--out", "a.png", "--save", "a.safetensors"),
    )
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout.count("target: Egyptian cat (2)") == 2
    assert result.stdout.count("tench") == 2
    Image.open(tmp_path / "a.png").verify()
    tensors, record = load_results(tmp_path / "a.safetensors")
    loaded = load_model(network())
    inputs = torch.stack([loaded.preprocess(Image.open(path)) for path in images])
    assert torch.equal(tensors["inputs"], inputs)
    expected = captum_deconv.compare(loaded.model, inputs, 2)
    assert set(tensors) == {"inputs", *expected}
    for method, attribution in expected.items():
        assert tensors[method].abs().max() > 0
        torch.testing.assert_close(tensors[method], attribution)  # one by one, and in a batch
    assert record["weights_sha256"] == loaded.weights_hash
    assert record["model"] == network()
    assert [image["name"] for image in record["images"]] == ["one.png", "two.jpg"]
    probability = loaded.model(inputs).softmax(dim=1)[0, 2].item()
    assert record["images"][0]["target"]["probability"] == pytest.approx(probability)
    assert record["versions"]["captum"] == metadata.version("captum")


def test_auto_target_and_one_method(call, folder, tmp_path):
    result = call(
        *("attribute", folder / "one.png", "-m", network()),
        *("--method", "guided_backprop", "-s", "a.safetensors"),
    )
    assert result.exit_code == 0, result.output
    tensors, record = load_results(tmp_path / "a.safetensors")
    assert set(tensors) == {"inputs", "guided_backprop"}
    best = load_model(network()).model(tensors["inputs"]).argmax().item()
    assert record["images"][0]["target"]["index"] == best


def test_guided_gradcam(call, folder, tmp_path):
    result = call(
        *("attribute", folder / "one.png", "-m", network(), "-t", "0", "--layer", "features.2"),
        *("--method", "guided_gradcam", "-s", "a.safetensors"),
    )
    assert result.exit_code == 0, result.output
    tensors, _ = load_results(tmp_path / "a.safetensors")
    model = load_model(network()).model
    expected = captum_deconv.GuidedGradCam(model, model.features[2]).attribute(tensors["inputs"], 0)
    assert torch.equal(tensors["guided_gradcam"], expected)


@pytest.mark.parametrize("neuron", ["strongest", "3", "3:1:2"])
def test_neurons(call, folder, tmp_path, neuron):
    result = call(
        *("attribute", folder / "one.png", "-m", network(), "--layer", "features.2"),
        *("--neuron", neuron, "-s", "a.safetensors", "-o", "a.svg"),
    )
    assert result.exit_code == 0, result.output
    tensors, record = load_results(tmp_path / "a.safetensors")
    model = load_model(network()).model
    layer = model.features[:3](tensors["inputs"])
    found = record["images"][0]["neuron"]
    selector = (found["channel"], *found["place"])
    assert found["activation"] == pytest.approx(layer[(0, *selector)].item())
    if neuron == "strongest":
        assert found["activation"] == pytest.approx(layer.max().item())
    elif neuron == "3":
        assert found["channel"] == 3
        assert found["activation"] == pytest.approx(layer[0, 3].max().item())
    else:
        assert selector == (3, 1, 2)
    guided = captum_deconv.NeuronGuidedBackprop(model, model.features[2])
    expected = guided.attribute(tensors["inputs"], selector)
    assert torch.equal(tensors["guided_backprop"], expected)


def test_several_neurons(call, folder, tmp_path):
    result = call(
        *("attribute", folder / "one.png", "-m", network(), "--layer", "features.2"),
        *("--neuron", "0-2,4:1:2", "-s", "a.safetensors", "-o", "a.svg"),
    )
    assert result.exit_code == 0, result.output
    assert result.output.count("one.png") == 1  # what the network saw is said once
    assert result.output.count("of features.2, activation") == 4
    tensors, record = load_results(tmp_path / "a.safetensors")
    neurons = [image["neuron"] for image in record["images"]]
    assert [neuron["channel"] for neuron in neurons] == [0, 1, 2, 4]
    assert neurons[3]["place"] == [1, 2]
    model = load_model(network()).model
    guided = captum_deconv.NeuronGuidedBackprop(model, model.features[2])
    for row, neuron in enumerate(neurons):
        selector = (neuron["channel"], *neuron["place"])
        expected = guided.attribute(tensors["inputs"][:1], selector)
        assert torch.equal(tensors["guided_backprop"][row : row + 1], expected)
    assert (tmp_path / "a.svg").read_text().count("Channel") >= 1


@pytest.mark.parametrize(
    ("target", "layer"), [("3,tench,egyptian", ()), ("top3", ("--layer", "features.2"))]
)
def test_several_targets(call, folder, tmp_path, target, layer):
    result = call(
        *("attribute", folder / "one.png", "-m", network(), "-t", target, *layer),
        *("-s", "a.safetensors", "-o", "a.svg"),
    )
    assert result.exit_code == 0, result.output
    assert result.output.count("target:") == 3
    tensors, record = load_results(tmp_path / "a.safetensors")
    targets = [image["target"]["index"] for image in record["images"]]
    model = load_model(network()).model
    scores = model(tensors["inputs"][:1])[0]
    assert targets == ([3, 0, 2] if target != "top3" else scores.topk(3).indices.tolist())
    assert ("guided_gradcam" in tensors) == bool(layer)
    for row, index in enumerate(targets):
        expected = captum_deconv.Deconvnet(model).attribute(tensors["inputs"][:1], index)
        assert torch.equal(tensors["deconvnet"][row : row + 1], expected)


def test_neuron_of_a_network_without_classes(call, folder):
    result = call(
        *("attribute", folder / "one.png", "-m", network("Dictionary"), "-o", "a.png"),
        *("--layer", "features.3", "--neuron", "strongest"),
    )
    assert result.exit_code == 0, result.output


def test_weights_from_a_file(call, folder, tmp_path):
    model = load_model(network()).model
    state = {key: value + 0.01 for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    result = call(
        *("attribute", folder / "one.png", "-m", network()),
        *("-w", "w.safetensors", "-s", "a.safetensors"),
    )
    assert result.exit_code == 0, result.output
    record = load_results(tmp_path / "a.safetensors")[1]
    assert record["weights"] == "w.safetensors"
    assert record["weights_sha256"] != load_model(network()).weights_hash


def test_random_weights_are_said_to_be_random(call, folder):
    words = ("attribute", folder / "one.png", "-m", "squeezenet1_1", "-w", "none", "-o", "a.png")
    result = call(*words, "--method", "deconvnet")
    assert result.exit_code == 0, result.output
    assert "captum-deconv: note: random weights" in result.stderr


@pytest.mark.filterwarnings("default::captum_deconv.RectifierCoverageWarning")
def test_coverage_warnings_are_one_line(call, folder):
    words = ("attribute", folder / "one.png", "-m", network("Smooth"), "-o", "a.png")
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("captum-deconv: warning: ")
    assert "GELU" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert call(*words, "--uncovered", "ignore").stderr == ""
    assert call(*words, "--activations", "all").exit_code == 0
    refused = call(*words, "--uncovered", "raise")
    assert_one_line(refused, 1, "GELU")


def test_coverage(call, folder):
    result = call("coverage", "-m", network(), "--size", "20", "24", "--strict")
    assert result.exit_code == 0, result.output
    assert "ReLU" in result.stdout
    for name in ("Dictionary", "Pair"):
        assert call("coverage", folder / "one.png", "-m", network(name)).exit_code == 0
    smooth = ("coverage", "-m", network("Smooth"))
    assert call(*smooth).exit_code == 0
    strict = call(*smooth, "--strict")
    assert strict.exit_code == 1
    assert "GELU" in strict.stdout
    assert call(*smooth, "--strict", "--activations", "all").exit_code == 0


def test_debug_shows_the_traceback(call, folder):
    words = ("attribute", folder / "one.png", "-m", network("Failing"), "-o", "a.png")
    assert "Traceback" not in call(*words).stderr
    result = call("--debug", *words)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


# Around the eyes and the nose of the photograph, as the network sees it: top, left, bottom, right.
FACE = [(48, 28, 116, 102), (70, 164, 128, 224), (168, 108, 222, 172)]


def test_demo_shows_the_eyes_and_the_nose(call, tmp_path):
    result = call("demo", "--only-cat", "--out", "pictures")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for name in ("cat", "cat_neuron"):
        assert f"{name}.png" in result.stdout
        with Image.open(tmp_path / "pictures" / f"{name}.png") as picture:
            assert picture.width > 2000
    tensors, record = load_results(tmp_path / "pictures" / "cat.safetensors")
    assert record["images"][0]["target"]["label"] in ("tabby", "tiger cat", "Egyptian cat")

    def measure_focus(method, box):
        """How many times as often as by chance the strongest pixels lie in the box."""
        strength = tensors[method][0].abs().amax(dim=0)
        strong = strength > strength.quantile(0.99)
        top, left, bottom, right = box
        return strong[top:bottom, left:right].float().mean().item() / strong.float().mean().item()

    for box in FACE:
        assert measure_focus("guided_backprop", box) > 2
        # The control: a deconvnet's picture of a class does not depend on the place.
        assert measure_focus("deconvnet", box) < 2


def test_negative_neurons_are_counted_from_the_end(call, folder, tmp_path):
    words = ("attribute", folder / "one.png", "-m", network(), "--layer", "features.2")
    assert call(*words, "--neuron", "-1:-2:3", "-s", "a.safetensors").exit_code == 0
    neuron = load_results(tmp_path / "a.safetensors")[1]["images"][0]["neuron"]
    assert (neuron["channel"], neuron["place"]) == (4, [6, 3])


def test_a_folder_is_all_of_its_images(call, folder, tmp_path):
    for name in ("b/two.jpg", "a.png"):
        (tmp_path / "photographs" / name).parent.mkdir(parents=True, exist_ok=True)
        source = folder / ("two.jpg" if name.endswith("jpg") else "one.png")
        (tmp_path / "photographs" / name).write_bytes(source.read_bytes())
    words = ("-m", network(), "--method", "deconvnet", "-s", "all.safetensors")
    result = call("attribute", "photographs", folder / "one.png", *words)
    assert result.exit_code == 0, result.stderr
    _, record = load_results(tmp_path / "all.safetensors")
    assert [image["name"] for image in record["images"]] == ["a.png", "two.jpg", "one.png"]
