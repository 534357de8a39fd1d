"""Projections against the whole image's, and what a gallery does with them."""

import dataclasses

import pytest
import torch
from galleries import Pooled, make_images, project_small, scan_small
from snapshot import Snapshot
from torch import Tensor, nn
from torchvision import models

from captum_deconv import (
    NeuronDeconvnet,
    NeuronGradient,
    NeuronGuidedBackprop,
    features,
    gallery,
    receptive_field,
)
from captum_deconv.features.index import ActivationIndex, IndexMismatchError
from captum_deconv.gallery import projector
from captum_deconv.receptive_field import crops
from captum_deconv.receptive_field.shapes import find_field

REFERENCES = {
    "deconvnet": NeuronDeconvnet,
    "guided_backprop": NeuronGuidedBackprop,
    "input_gradient": NeuronGradient,
}


class Gated(nn.Module):
    """A squeeze-and-excite gate mixes the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.gate = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return x * torch.sigmoid(self.gate(x.mean((2, 3))))[..., None, None]


class Counted(list):
    """A data set that counts how often each sample is read."""

    def __init__(self, samples: list[Tensor]) -> None:
        super().__init__(samples)
        self.reads: list[int] = []

    def __getitem__(self, index):
        self.reads.append(index)
        return super().__getitem__(index)


def activate(model: nn.Module, layer: str, images: list[Tensor]) -> Tensor:
    kept: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(
        lambda module, args, output: kept.append(output.clone())
    )
    with torch.no_grad():
        model(torch.stack(images))
    hook.remove()
    return kept[0]


def index_of(
    model: nn.Module, layer: str, images: list[Tensor], positions: list[tuple[int, ...]]
) -> ActivationIndex:
    """Make an index of channels 0 and 1 at chosen positions, one image after the other."""
    samples = torch.arange(len(positions)) % len(images)
    activations = activate(model, layer, images)
    places = torch.tensor(positions)
    values = [activations[(samples, c, *places.unbind(1))] for c in (0, 1)]
    return ActivationIndex(
        {layer: torch.stack(values)},
        {layer: samples.expand(2, -1).clone()},
        {layer: places.expand(2, -1, -1).clone()},
        metadata={"k": len(positions), "layers": [layer]},
    )


def everywhere(height: int, width: int) -> list[tuple[int, int]]:
    """The corners, the edges, beside them, and the middle."""
    h, w = height - 1, width - 1
    return [
        (0, 0),
        (0, w),
        (h, 0),
        (h, w),
        (0, w // 2),
        (h // 2, w),
        (h, 1),
        (1, 1),
        (h // 2, w // 2),
    ]


def measure_error(found, model: nn.Module, images: list[Tensor], method: str) -> float:
    """Compare with the uncropped projection: the largest difference, of the largest value."""
    worst = 0.0
    reference = REFERENCES[method](model, found.layer)
    nonzero = 0
    for row, channel in enumerate(found.channels):
        laid = found.full(channel, method)
        for rank, (sample, place) in enumerate(
            zip(found.samples[row].tolist(), found.positions[row].tolist(), strict=True)
        ):
            expected = reference.attribute(images[sample][None], (channel, *place))[0]
            largest = float(expected.abs().max())
            nonzero += largest > 0
            worst = max(worst, float((laid[rank] - expected).abs().max()) / (largest or 1))
    assert nonzero > found.samples.numel() // 4
    return worst


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        ("alexnet", "features.2", (95, 120)),
        ("alexnet", "features.5", (130, 101)),
        ("alexnet", "features.12", (200, 227)),
        ("vgg16", "features.8", (40, 46)),
        ("vgg16", "features.15", (48, 63)),
        ("resnet18", "maxpool", (64, 49)),
        ("resnet18", "layer1", (64, 81)),
        ("resnet18", "layer2", (130, 115)),
    ],
)
def test_a_crop_gives_what_the_image_gives_at_every_border(name, layer, size):
    torch.manual_seed(0)
    model = getattr(models, name)(weights=None).eval()
    images = make_images(2, *size)
    height, width = activate(model, layer, images).shape[2:]
    index = index_of(model, layer, images, everywhere(height, width))
    found = gallery.project(
        index, model, images, method=["deconvnet", "guided_backprop"], seed="one", check=False
    )
    assert found.patches.shape[3:] < size or layer == "layer2"
    # The same sums of products in float32, perhaps in another order.
    assert measure_error(found, model, images, "deconvnet") <= 1e-6
    assert measure_error(found, model, images, "guided_backprop") <= 1e-6


def test_an_unaligned_crop_would_show():
    """The control of the test above: off the grid, the comparison fails."""
    torch.manual_seed(0)
    model, image = Pooled().double().eval(), make_images(1, 50, 50)[0].double()
    project = NeuronDeconvnet(model, "6")
    expected = project.attribute(image[None], (3, 6, 6))[0]
    crop = crops.cut(find_field(model, "6", image), (6, 6))
    assert crop.size < (30, 30)
    for shift, same in ((0, True), (1, False)):
        moved = dataclasses.replace(crop, starts=tuple(start + shift for start in crop.starts))
        (top, left), (bottom, right) = moved.starts, moved.stops
        projection = project.attribute(moved.cut_from(image)[None], (3, *crop.position))[0]
        difference = (projection - expected[:, top:bottom, left:right]).abs().max()
        assert (difference <= 1e-12 * expected.abs().max()) == same


@pytest.mark.parametrize(
    ("wrong", "noticed"),
    [
        ({"stride": (5, 5)}, "the layer gives"),
        ({"size": (13, 13)}, "in the index"),
        ({"size": (16, 16)}, "a projection reaches beyond it"),
    ],
)
def test_a_field_that_is_wrong_is_noticed_and_the_image_taken(monkeypatch, wrong, noticed):
    torch.manual_seed(0)
    model, images = Pooled().double().eval(), [i.double() for i in make_images(3, 50, 50)]
    index = features.scan(model, ["6"], images, k=3, progress=False)
    right = find_field(model, "6", images[0])
    assert (right.size, right.stride) == ((17, 17), (4, 4))
    other = dataclasses.replace(right, **wrong, _paths=(), _map_size=())
    monkeypatch.setattr(projector, "find_field", lambda *_: other)
    with pytest.warns(RuntimeWarning, match=f"does not hold .*{noticed}.*whole images instead"):
        found = gallery.project(index, model, images)
    assert found.patches.shape[3:] == (50, 50)
    reference = NeuronDeconvnet(model, "6").attribute(
        images[int(found.samples[2, 0])][None], (2, *found.positions[2, 0].tolist())
    )
    expected = reference[0] * found.values[2, 0]
    torch.testing.assert_close(found.full(2)[0], expected, rtol=1e-12, atol=1e-12)


def test_a_layer_that_mixes_the_image_is_projected_from_the_whole():
    torch.manual_seed(0)
    model, images = Gated().eval(), make_images(4, 14, 17)
    wrapped = nn.Sequential(model, nn.ReLU()).eval()
    index = features.scan(wrapped, ["0"], images, k=2, progress=False)
    found = gallery.project(index, wrapped, images, seed="one", uncovered="ignore")
    assert found.patches.shape == (6, 2, 3, 14, 17)
    assert found.boxes.tolist()[0][0] == [[0, 14], [0, 17]]
    assert measure_error(found, wrapped, images, "deconvnet") <= 1e-6


def test_a_layer_without_places_is_projected_from_the_whole():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5)
    ).eval()
    images = make_images(4, 8, 8)
    index = features.scan(model, ["3"], images, k=2, progress=False)
    found = gallery.project(index, model, images, seed="one", method="guided_backprop")
    assert found.patches.shape == (5, 2, 3, 8, 8)
    assert measure_error(found, model, images, "guided_backprop") <= 1e-6


@pytest.fixture
def scanned():
    return scan_small()


@pytest.fixture
def found():
    return project_small()


def test_patches_and_boxes_belong_together(scanned, found):
    model, images, index = scanned
    assert found.patches.shape == found.projections.shape == (8, 9, 3, *found.patches.shape[3:])
    assert found.boxes.shape == found.fields.shape == (8, 9, 2, 2)
    field = receptive_field.of(model, "6", images[0][None])
    for row, rank in ((0, 0), (3, 5), (7, 8)):
        (top, bottom), (left, right) = found.boxes[row, rank].tolist()
        image = images[int(found.samples[row, rank])]
        assert torch.equal(found.patches[row, rank], image[:, top:bottom, left:right])
        seen = field.box(found.positions[row, rank].tolist())
        assert found.fields[row, rank].tolist() == [list(edge) for edge in seen]
        assert top <= seen[0][0]
        assert seen[0][1] <= bottom
        assert left <= seen[1][0]
        assert seen[1][1] <= right
    assert torch.equal(found.values, index.values["6"])
    assert found.dead.tolist() == [row == 4 for row in range(8)]
    assert not found.projections[4].any(), "a dead channel has nothing to project"


def test_the_activation_is_the_default_seed(scanned, found):
    model, images, index = scanned
    one = gallery.project(index, model, images, seed="one")
    # Every rule is positively homogeneous, so a positive seed only scales.
    expected = one.projections[0] * found.values[0].view(-1, 1, 1, 1)
    torch.testing.assert_close(found.projections[0], expected, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(found.projections[0], one.projections[0])
    assert one.projections[4].any()
    assert not found.projections[4].any()


def test_methods_together_are_methods_alone(scanned, found):
    model, images, index = scanned
    assert found.methods == ("deconvnet", "guided_backprop")
    for method in found.methods:
        alone = gallery.project(index, model, images, method=method)
        assert torch.equal(alone.projections, found.by_method[method])
    assert not torch.equal(found.by_method["deconvnet"], found.by_method["guided_backprop"])


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_makes_no_difference(scanned, found, batch_size):
    model, images, index = scanned
    other = gallery.project(index, model, images, batch_size=batch_size)
    largest = found.projections.abs().max()
    assert (other.projections - found.projections).abs().max() <= 1e-6 * largest


def test_each_image_is_read_once(scanned):
    model, images, index = scanned
    counted = Counted(images)
    found = gallery.project(index, model, counted, channels=[0, 2, 3], check=False)
    assert sorted(counted.reads) == sorted(set(found.samples.flatten().tolist()))
    assert found.samples.numel() > len(counted.reads)


def test_workers_read_the_same(scanned, found):
    model, images, index = scanned
    other = gallery.project(index, model, images, channels=[1], workers=1)
    assert torch.equal(other.patches[0], found.patches[1])


def test_the_model_and_the_images_stay_as_they_are(scanned):
    model, images, index = scanned
    snapshot = Snapshot(model, *images)
    gallery.project(index, model, images, channels=[0])
    snapshot.assert_unchanged()


def test_fewer_samples_than_k_leave_gaps():
    torch.manual_seed(0)
    model, images = Pooled().eval(), make_images(2, 40, 40)
    index = features.scan(model, ["6"], images, k=4, progress=False)
    found = gallery.project(index, model, images)
    assert found.samples[0].tolist()[2:] == [-1, -1]
    assert not found.patches[:, 2:].any()
    assert not found.projections[:, 2:].any()
    assert found.patches[:, :2].any()
    assert found.full(0).shape == (4, 3, 40, 40)
    assert (found.show_patch(0, 3) == 128).all()
    assert found.figure([0]).axes


def test_tracing_on_the_meta_device_is_the_receptive_field():
    torch.manual_seed(0)
    for name, layer in (
        ("resnet18", "layer2"),
        ("googlenet", "inception3a"),
        ("alexnet", "features"),
    ):
        extra = {"init_weights": False} if name == "googlenet" else {}
        model = getattr(models, name)(weights=None, **extra).eval()
        image = torch.rand(3, 96, 110)
        assert find_field(model, layer, image) == receptive_field.of(model, layer, image[None])


def test_a_model_that_cannot_be_traced_without_values_is_run():
    class Branching(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.max() > -1e9 else x

    model, image = Branching().eval(), torch.rand(3, 40, 40)
    assert find_field(model, "3", image) == receptive_field.of(model, "3", image[None])


class TestErrors:
    def test_a_data_set_with_random_transforms(self, scanned):
        model, _, index = scanned
        changed = make_images(12, 40, 52, seed=5)
        with pytest.raises(ValueError, match=r"in the index: the data set must give the same"):
            gallery.project(index, model, changed, check=False)

    def test_another_data_set(self, scanned):
        model, _, index = scanned
        with pytest.raises(IndexMismatchError, match="data set"):
            gallery.project(index, model, make_images(12, 40, 52, seed=5))

    def test_other_weights(self, scanned):
        _, images, index = scanned
        with pytest.raises(IndexMismatchError, match="weights"):
            gallery.project(index, Pooled().eval(), images)

    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"layer": "5"}, ValueError, "holds no layer '5'"),
            ({"channels": 8}, IndexError, "channel 8 is out of range.* has 8"),
            ({"channels": []}, ValueError, "at least one channel"),
            ({"channels": [1, 1]}, ValueError, "each once"),
            ({"method": "magic"}, ValueError, "unknown method 'magic'"),
            ({"method": ["deconvnet"] * 2}, ValueError, "each once"),
            ({"seed": "two"}, ValueError, "unknown seed 'two'"),
        ],
    )
    def test_options(self, scanned, options, error, match):
        model, images, index = scanned
        with pytest.raises(error, match=match):
            gallery.project(index, model, images, **options)

    def test_a_layer_is_needed_where_there_are_two(self, scanned):
        model, images, _ = scanned
        index = features.scan(model, ["1", "6"], images, k=2, progress=False)
        with pytest.raises(ValueError, match="2 layers, so name one"):
            gallery.project(index, model, images)
        assert gallery.project(index, model, images, layer="1", channels=0).layer == "1"

    def test_what_the_gallery_does_not_show(self, found):
        with pytest.raises(IndexError, match="channel 99 is not in this gallery"):
            found.full(99)
        with pytest.raises(KeyError, match="input_gradient"):
            found.full(0, "input_gradient")


def test_fast_projections_say_how_far_they_are():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)
    ).eval()
    nn.init.uniform_(model[1].running_mean, -0.5, 0.5)
    images = make_images(6, 24, 24)
    index = features.scan(model, ["3"], images, k=4, progress=False)
    exact = gallery.project(index, model, images)
    fast = gallery.project(index, model, images, fast=True, about="A network.")
    assert fast.about.startswith("A network. Projected by a faster copy (channels-last, 1 batch")
    assert "of the largest" in fast.about
    assert torch.equal(fast.boxes, exact.boxes)
    error = (fast.projections - exact.projections).abs().max()
    assert 0 < error <= 1e-4 * exact.projections.abs().max()
    assert exact.about == ""


def test_a_layer_called_twice_is_projected_from_crops_that_what_follows_would_not_take():
    """The pass ends at the layer's last call: the pooling after it needs more than a crop has."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
            self.act, self.pool = nn.ReLU(), nn.AvgPool2d(12)
            self.last = nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.last(self.pool(self.act(self.other(self.act(self.one(x))))))

    torch.manual_seed(0)
    model = Twice().eval().double()
    images = [image.double() for image in make_images(5, 20, 24)]
    index = features.scan(model, "act", images, k=3, progress=False)
    sizes = []
    model.one.register_forward_hook(lambda _, args, output: sizes.append(args[0].shape[-1]))
    found = gallery.project(index, model, images)
    assert found.patches.shape[3:] == (5, 5)
    assert min(sizes) < 12, "by crops"
    ask = NeuronDeconvnet(model, "act")
    for row in range(6):
        for rank, sample in enumerate(found.samples[row].tolist()):
            place = tuple(found.positions[row, rank].tolist())
            whole = ask.attribute(images[sample][None], (row, *place))[0]
            expected = whole * found.values[row, rank]
            # float64; a crop's convolutions may sum in another order
            assert torch.allclose(found.full(row)[rank], expected, atol=1e-12)
