import importlib.util
import os
import sys
import urllib.error

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from captum_deconv.sources.images import read_demo_image
from captum_deconv.sources.models import (
    ModelError,
    UnknownNameError,
    choose_device,
    find_layer,
    load_model,
)
from captum_deconv.sources.weights import (
    WeightsError,
    hash_weights,
    load_weights,
    read_only_weights,
)

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed"
)


class Sentinel:
    """Unpickling it leaves a trace: `marker` comes to be."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Torch's cache, empty, with no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_random_weights_are_seeded_and_leave_the_generator_alone():
    state = torch.get_rng_state()
    first, second = (load_model("resnet18", "none") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.weights_hash == second.weights_hash
    assert "random" in first.notes[0]
    assert not first.model.training
    assert first.categories[281] == "tabby"
    assert first.mean == (0.485, 0.456, 0.406)
    inputs = first.preprocess(Image.new("RGB", (300, 260), (10, 100, 200)))
    assert inputs.shape == (3, 224, 224)
    assert torch.allclose(first.restore(inputs)[:, 5, 5] * 255, torch.tensor([10.0, 100, 200]))


def test_the_hash_is_of_the_weights():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = hash_weights(model)
    assert before == hash_weights(model.to(memory_format=torch.channels_last))
    with torch.no_grad():
        model[0].bias[0] += 1
    changed = hash_weights(model)
    assert changed != before
    model[1].running_mean[0] = 3
    assert len({before, changed, hash_weights(model)}) == 3
    assert hash_weights(model.half()) != changed


@pytest.mark.parametrize("kind", ["safetensors", "pt", "nested"])
def test_weights_from_a_file(tmp_path, kind):
    source = load_model("squeezenet1_1", "none").model
    with torch.no_grad():
        next(source.parameters())[0] += 1
    path = tmp_path / f"w.{'safetensors' if kind == 'safetensors' else 'pt'}"
    if kind == "safetensors":
        save_file(source.state_dict(), path)
    else:
        state = source.state_dict()
        torch.save({"state_dict": state, "epoch": 3} if kind == "nested" else state, path)
    loaded = load_model("squeezenet1_1", str(path))
    assert loaded.weights_hash == hash_weights(source)
    assert loaded.weights == path.name
    assert loaded.notes == ()


def test_weights_that_do_not_fit(tmp_path):
    state = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)).state_dict()
    state["0.weight"] = torch.zeros(5, 2)
    state["more"] = state.pop("1.bias")
    torch.save(state, tmp_path / "w.pt")
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
    before = hash_weights(model)
    with pytest.raises(WeightsError) as caught:
        load_weights(model, tmp_path / "w.pt")
    for words in (
        "1 missing (1.bias)",
        "1 unexpected (more)",
        "1 of the wrong shape (0.weight (5, 2) for (3, 2))",
    ):
        assert words in str(caught.value)
    assert hash_weights(model) == before


def test_old_checkpoints_without_the_batch_counter_fit(tmp_path):
    model = nn.BatchNorm2d(3)
    state = model.state_dict()
    del state["num_batches_tracked"]
    torch.save(state, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_that_are_no_weights(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    model = nn.Linear(1, 1)
    with pytest.raises(WeightsError, match="no such weights file"):
        load_weights(model, path)
    path.write_bytes(b"hello")
    with pytest.raises(WeightsError, match="not readable"):
        load_weights(model, path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="no state dict"):
        load_weights(model, tmp_path / "list.pt")


def test_pickles_are_not_executed(tmp_path):
    marker = tmp_path / "executed"
    torch.save({"weight": Sentinel(marker)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="without executing"):
        load_weights(nn.Linear(1, 1), tmp_path / "w.pt")
    assert not marker.exists()
    # The trap works: whoever does unpickle it falls into it.
    torch.load(tmp_path / "w.pt", weights_only=False)
    assert marker.exists()


def test_default_weights_come_from_the_cache(hub):
    state = load_model("resnet18", "none").model.state_dict()
    state["fc.bias"] += 1
    torch.save(state, hub / "resnet18-f37072fd.pth")
    loaded = load_model("resnet18")
    assert torch.equal(loaded.model.fc.bias, state["fc.bias"])
    assert loaded.weights == "ResNet18_Weights.IMAGENET1K_V1"
    assert loaded.notes == ()


def test_cached_pickles_are_not_executed(hub, tmp_path):
    marker = tmp_path / "executed"
    torch.save({"weight": Sentinel(marker)}, hub / "resnet18-f37072fd.pth")
    with pytest.raises(WeightsError, match="without executing"):
        load_model("resnet18")
    assert not marker.exists()


def test_no_network_says_where_a_file_can_be_given(hub):
    with pytest.raises(WeightsError) as caught:
        load_model("resnet18")
    for words in ("Name or service not known", "--weights FILE", str(hub / "resnet18-f37072fd")):
        assert words in str(caught.value)


def test_the_environment_is_put_back(monkeypatch):
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    with read_only_weights():
        assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_the_users_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    with read_only_weights():
        assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "0"


@pytest.mark.parametrize("name", ["googlenet", "lraspp_mobilenet_v3_large"])
def test_builders_neither_warn_nor_download(hub, name):
    assert load_model(name, "none").categories
    assert not list(hub.iterdir())


@pytest.mark.parametrize(
    ("name", "error", "word"),
    [
        ("resnet5", UnknownNameError, "did you mean resnet50"),
        ("efficientnet-lite1", UnknownNameError, "did you mean efficientnet-lite0"),
        ("quantized_resnet18", ModelError, "use resnet18"),
        ("raft_small", ModelError, "pairs of images"),
        ("no_such_module:build", UnknownNameError, "no module 'no_such_module'"),
        ("torch.nn:Linaer", UnknownNameError, "did you mean Linear"),
        ("torch.nn:Linear", ModelError, "failed"),
        ("os:getcwd", ModelError, "returned str"),
        ("os:name", ModelError, "neither"),
    ],
)
def test_models_that_are_none(name, error, word):
    with pytest.raises(error, match=word):
        load_model(name, "none")


def test_a_name_is_refused_where_torchvisions_source_cannot_be_read(monkeypatch):
    monkeypatch.setattr("captum_deconv.sources.names.list_torchvision_names", lambda: ())
    with pytest.raises(UnknownNameError, match="no model 'resnet5'; did you mean resnet50"):
        load_model("resnet5", "none")


def test_broken_modules_are_told_from_missing_ones(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_network.py").write_text("import a_package_it_misses")
    with pytest.raises(ModelError, match="a_package_it_misses"):
        load_model("broken_network:build")


def test_a_network_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")  # puts sys.path back at the end
    (tmp_path / "local_network.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Dropout())\n"
        "    model.categories = ('a', 'b')\n"
        "    return model\n"
        "ready = build()\n"
    )
    loaded = load_model("local_network:build")
    assert loaded.weights_hash == load_model("local_network:build").weights_hash
    assert loaded.categories == ["a", "b"]
    assert not loaded.model.training
    assert "preprocess" in loaded.notes[0]
    assert isinstance(load_model("local_network:ready").model, nn.Sequential)


def test_layers():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1)), nn.ReLU())
    assert find_layer(model, "0.0") is model[0][0]
    with pytest.raises(UnknownNameError, match=r"no layer '0\.1'; did you mean 0\.0"):
        find_layer(model, "0.1")
    with pytest.raises(UnknownNameError, match="there are none"):
        find_layer(nn.ReLU(), "a")


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UnknownNameError, match="auto, cpu, cuda"):
        choose_device("gpu")
    with pytest.raises(ModelError, match="--device cpu"):
        choose_device("cuda:99")


def test_efficientnet_lite_sees_a_cat():
    loaded = load_model("efficientnet-lite0")
    black, white = (loaded.preprocess(Image.new("RGB", (9, 9), c)) for c in ("black", "white"))
    assert black.unique().tolist() == [pytest.approx(-127 / 128)]  # (pixel - 127) / 128
    assert white.unique().tolist() == [pytest.approx(1.0)]
    inputs = loaded.preprocess(read_demo_image().image)
    assert inputs.shape == (3, 224, 224)
    with torch.no_grad():
        probabilities = loaded.model(inputs.unsqueeze(0))[0].softmax(dim=0)
    cats = [loaded.categories.index(name) for name in ("tabby", "tiger cat", "Egyptian cat")]
    assert probabilities[cats].sum() > 0.9
    assert len(loaded.weights_hash) == 64
    random = load_model("efficientnet-lite0", "none")
    assert random.weights_hash != loaded.weights_hash
    assert "random" in random.notes[0]


def test_torchvisions_names_are_read_from_its_source():
    import torchvision

    from captum_deconv.sources.names import list_torchvision_names

    assert list(list_torchvision_names()) == sorted(torchvision.models.list_models())


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Hugging Face's cache, empty, with no network."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


@needs_timm
def test_a_network_of_timms_with_its_own_transform():
    import timm
    from timm.data import create_transform, resolve_model_data_config

    state = torch.get_rng_state()
    first, second = (load_model("timm/resnet10t", "none") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.weights_hash == second.weights_hash
    assert "random" in first.notes[0]
    assert not first.model.training
    assert type(first.model) is type(timm.create_model("resnet10t"))
    config = resolve_model_data_config(first.model)
    assert config["input_size"] == (3, 176, 176)  # no size that other networks here have
    photograph = read_demo_image().image
    inputs = first.preprocess(photograph)
    assert inputs.shape == (3, 176, 176)
    assert first.preprocess.crop_size == (176, 176)
    assert torch.equal(inputs, create_transform(**config, is_training=False)(photograph))
    assert (first.mean, first.std) == (config["mean"], config["std"])
    plain = first.preprocess(Image.new("RGB", (300, 260), (10, 100, 200)))
    assert torch.allclose(first.restore(plain)[:, 5, 5] * 255, torch.tensor([10.0, 100, 200]))
    assert first.categories[282] == "tiger cat"
    assert first.model(inputs.unsqueeze(0)).shape == (1, len(first.categories))


@needs_timm
def test_timms_own_means_are_used():
    from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD

    loaded = load_model("timm/mixer_s32_224", "none")
    assert (loaded.mean, loaded.std) == (IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD)


@needs_timm
def test_timms_weights_from_a_file(tmp_path):
    source = load_model("timm/resnet10t", "none").model
    with torch.no_grad():
        next(source.parameters())[0] += 1
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    loaded = load_model("timm/resnet10t.c3_in1k", str(tmp_path / "w.safetensors"))
    assert loaded.weights_hash == hash_weights(source)
    assert (loaded.weights, loaded.notes) == ("w.safetensors", ())


@needs_timm
def test_timms_default_weights_are_fetched_by_timm(monkeypatch, tmp_path):
    import timm.models._builder

    source = load_model("timm/resnet10t", "none").model
    with torch.no_grad():
        source.fc.bias += 1
    asked = []

    def fetch(where, **_):
        asked.append((where, os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")))
        return source.state_dict()

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", fetch)
    loaded = load_model("timm/resnet10t")
    assert asked == [("timm/resnet10t.c3_in1k", "1")]
    assert loaded.weights_hash == hash_weights(source)
    assert (loaded.weights, loaded.notes) == ("resnet10t.c3_in1k of timm", ())


@needs_timm
def test_timms_weights_without_a_network(offline):
    state = torch.get_rng_state()
    with pytest.raises(WeightsError) as caught:
        load_model("timm/resnet10t")
    for words in ("timm/resnet10t", "--weights FILE", "--weights none"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.equal(torch.get_rng_state(), state)


@needs_timm
@pytest.mark.parametrize(
    ("name", "weights", "error", "word"),
    [
        ("timm/resnet26e", "none", UnknownNameError, "did you mean .*timm/resnet26"),
        ("timm/resnet10t.c4_in1k", "none", UnknownNameError, r"mean timm/resnet10t\.c3_in1k"),
        ("timm/hf-hub:somebody/something", "none", UnknownNameError, "no model"),
        ("timm/nf_seresnet26", "DEFAULT", WeightsError, "no trained weights"),
    ],
)
def test_networks_that_timm_has_not(name, weights, error, word):
    with pytest.raises(error, match=word):
        load_model(name, weights)


@needs_timm
def test_a_network_that_timm_cannot_build(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such layer")

    monkeypatch.setattr("timm.create_model", fail)
    with pytest.raises(ModelError, match="timm cannot build resnet10t: no such layer"):
        load_model("timm/resnet10t", "none")


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"pip install 'captum-deconv\[timm\]'"):
        load_model("timm/resnet10t", "none")


@needs_timm
def test_timms_names_are_read_from_its_source():
    import timm

    from captum_deconv.sources.names import list_timm_names

    assert list(list_timm_names()) == sorted(timm.list_models())
