"""Many neurons, each on the part of the image that it sees: the same as on the whole image."""

import pytest
import torch
from snapshot import Snapshot
from torch import nn

from captum_deconv import NeuronDeconvnet, NeuronGradient, NeuronGuidedBackprop, strongest
from captum_deconv.receptive_field import crops

SIDE = 144
CORNERS = [(0, 0, 0), (1, 35, 35), (2, 0, 35), (3, 17, 1)]


def make_network(*, kept: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        kept or nn.Identity(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36 * 36, 4),
    ).eval()


@pytest.fixture
def photographs():
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def sizes():
    """Hand out a hook that writes down the size of what the model is given, and the list."""
    seen = []
    return lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])), seen


def ask(method, images, selectors, **how):
    return list(method.attribute_each(images, selectors, **how))


@pytest.mark.parametrize("kind", [NeuronGradient, NeuronGuidedBackprop, NeuronDeconvnet])
@pytest.mark.parametrize("memory", ["light", "lean"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_crops_make_no_difference(kind, memory, dtype, bound, photographs, sizes):
    model, images = make_network().to(dtype), photographs.to(dtype)
    hook, seen = sizes
    model.register_forward_pre_hook(hook)
    method = kind(model, "5", memory=memory)
    selectors = [*CORNERS, (4, -1, 20), strongest(5), lambda t: t[:, 2, 9, 9] - t[:, 3, 9, 9]]
    expected = [method.attribute(images, selector) for selector in selectors]
    del seen[:]
    before = Snapshot(model, images)
    found = ask(method, images, selectors)
    before.assert_unchanged()
    assert seen[0] == (SIDE, SIDE)  # once
    assert len(seen) == 2  # and the crops of all together
    assert all(max(size) < SIDE // 4 for size in seen[1:])
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        assert not one.requires_grad
        assert other.any()
        assert (one - other).abs().max() <= bound * other.abs().max()


def test_uncropped_is_bit_for_bit(photographs, sizes):
    model, (hook, seen) = make_network(), sizes
    method = NeuronDeconvnet(model, "6")
    expected = [method.attribute(photographs, selector) for selector in CORNERS]
    model.register_forward_pre_hook(hook)
    for one, other in zip(ask(method, photographs, CORNERS, cropped=False), expected, strict=True):
        assert torch.equal(one, other)
    assert seen == [(SIDE, SIDE)]


class LessTheMean(nn.Module):
    """Looks at the whole image where autograd does not see it."""

    def forward(self, x):
        return x - x.detach().mean()


class OnlyWhole(nn.Module):
    def forward(self, x):
        assert x.shape[-1] == SIDE // 2, "images of one size only"
        return x


class Position(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Parameter(torch.randn(SIDE // 2, SIDE // 2))

    def forward(self, x):
        return x + self.map


@pytest.mark.parametrize("kept", [LessTheMean, OnlyWhole, Position])
def test_a_model_that_tells_a_crop_is_asked_in_the_whole_image(kept, photographs, sizes):
    model, (hook, seen) = make_network(kept=kept()), sizes
    method = NeuronGuidedBackprop(model, "6")
    expected = [method.attribute(photographs, selector) for selector in CORNERS]
    model.register_forward_pre_hook(hook)
    for one, other in zip(ask(method, photographs, CORNERS), expected, strict=True):
        assert torch.equal(one, other)
    assert len(seen) == 2  # and a crop is tried once


def test_questions_with_and_without_crops_take_turns(photographs, sizes):
    model, (hook, seen) = make_network(), sizes
    method = NeuronDeconvnet(model, "5")
    rows = (2, slice(None), 5)  # of no one place
    selectors = [CORNERS[0], CORNERS[1], rows, *CORNERS, *CORNERS, rows, *CORNERS]
    expected = [method.attribute(photographs, selector) for selector in selectors]
    model.register_forward_pre_hook(hook)
    for one, other in zip(ask(method, photographs, selectors), expected, strict=True):
        assert (one - other).abs().max() <= 1e-6 * other.abs().max()
    assert [size[0] < SIDE // 4 for size in seen] == [False, True, True, True, True]


def test_crops_of_a_pass_hold_no_more_pixels_than_the_images(photographs):
    model, pixels = make_network(), []
    model.register_forward_pre_hook(lambda _, inputs: pixels.append(inputs[0].numel()))
    wide = nn.Sequential(*model[:6], nn.Conv2d(8, 8, 9, padding=4))
    wide.register_forward_pre_hook(lambda _, inputs: pixels.append(inputs[0].numel()))
    selectors = [(1, 17, column) for column in range(10, 26)]
    ask(NeuronGradient(wide, "6"), photographs, selectors)
    assert len(pixels) > 3
    assert max(pixels) == pixels[0]


def test_what_was_asked_before_a_stream_broke_is_answered(photographs):
    def stream():
        yield CORNERS[0]
        yield CORNERS[1]
        raise OSError("the line is dead")

    method, found = NeuronGradient(make_network(), "5"), []
    with pytest.raises(OSError, match="the line is dead"):
        found.extend(method.attribute_each(photographs, stream()))
    assert len(found) == 2


def test_a_bad_neuron_among_those_read_ahead_names_its_number(photographs):
    method, found = NeuronGradient(make_network(), "5"), []
    with pytest.raises(IndexError, match=r"neuron_selectors\[2\]"):
        found.extend(method.attribute_each(photographs, [*CORNERS[:2], (99, 0, 0), CORNERS[3]]))
    assert len(found) == 2


def test_a_wrong_crop_is_noticed(photographs, monkeypatch):
    method = NeuronGuidedBackprop(make_network(), "6")
    right = crops.cut

    def shifted(field, position, least=None):
        cut = right(field, position, least)
        return crops.Crop(
            tuple(s + 4 for s in cut.starts), tuple(s + 4 for s in cut.stops), cut.position
        )

    monkeypatch.setattr(crops, "cut", shifted)
    (found,) = ask(method, photographs, [(3, 17, 17)])
    assert torch.equal(found, method.attribute(photographs, (3, 17, 17)))


@pytest.mark.parametrize(
    "selector",
    [
        (2, slice(None), 5),  # several places
        lambda tensor: tensor[:, 1].flatten(1).relu().sum(1),
        (2, slice(4, 5), 5),
    ],
)
def test_what_is_at_several_places_or_written_as_a_sum(selector, photographs):
    method = NeuronDeconvnet(make_network(), "5")
    expected = method.attribute(photographs, selector)
    (found,) = ask(method, photographs, [selector])
    assert expected.any()
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_a_function_with_a_rectifier_of_its_own(photographs):
    """The rule holds there too: of two signals from above, the deconvnet passes the positive."""
    method = NeuronDeconvnet(make_network(), "6")

    def negated(tensor):
        return -(tensor[:, 0, 9, 9].relu() + tensor[:, 1, 9, 9] * 2)

    expected = method.attribute(photographs, negated)
    (found,) = ask(method, photographs, [negated])
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert not torch.equal(
        expected, NeuronGradient(method.forward_func, "6").attribute(photographs, negated)
    )


@pytest.mark.parametrize(
    ("layer", "selector", "side", "dtype"),
    [
        ("8", (3,), SIDE, torch.float32),  # it sees everything
        ("5", (3, 9, 9), SIDE, torch.bfloat16),  # whose rounding is no millionth
        ("5", (3, 4, 4), 40, torch.float32),  # too little to gain
    ],
)
def test_what_has_no_crop_is_bit_for_bit(layer, selector, side, dtype, photographs, sizes):
    model, images = make_network().to(dtype), photographs[..., :side, :side].to(dtype)
    hook, seen = sizes
    method = NeuronDeconvnet(model, layer)
    expected = method.attribute(images, selector)
    model.register_forward_pre_hook(hook)
    (found,) = ask(method, images, [selector])
    assert expected.any()
    assert torch.equal(found, expected)
    assert seen == [(side, side)]


def test_several_inputs_and_additional_arguments(photographs):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = make_network()

        def forward(self, one, other):
            return self.network(one + other)

    method = NeuronDeconvnet(Sum(), "network.6")
    (found,) = ask(method, (photographs, photographs), [(3, 9, 9)])
    expected = method.attribute((photographs, photographs), (3, 9, 9))
    assert all(map(torch.equal, found, expected))
    (found,) = ask(method, photographs, [(3, 9, 9)], additional_forward_args=photographs)
    assert torch.equal(found, expected[0])


def test_of_the_layers_input_and_a_tuple_of_one(photographs):
    method = NeuronGradient(make_network(), "5")
    expected = method.attribute(photographs, (3, 9, 9), None, True)
    ((found,),) = ask(method, (photographs,), [(3, 9, 9)], attribute_to_neuron_input=True)
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_a_bad_selector_names_its_number(photographs):
    answers = NeuronDeconvnet(make_network(), "6").attribute_each(
        photographs, [*CORNERS, (9, 0, 0)]
    )
    for _ in CORNERS:
        next(answers)
    with pytest.raises(IndexError, match=r"^neuron_selectors\[4\]: neuron selector \(9, 0, 0\)"):
        next(answers)


def test_a_layer_that_no_image_leads_to():
    """A weight that a module makes, of as many rows as there are images."""
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3))
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(3 * 6 * 6, 2))
    images = torch.randn(3, 3, 8, 8)
    method = NeuronDeconvnet(model, "0.parametrizations.weight")
    expected = method.attribute(images, (0, 1, 1))
    (found,) = ask(method, images, [(0, 1, 1)])
    assert torch.equal(found, expected)
    assert not found.any()


class Sliced(nn.Module):
    """A network that leaves out a part of its maps, and whose layer answers to nothing."""

    def __init__(self, cut):
        super().__init__()
        torch.manual_seed(0)
        self.cut = cut
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 5, padding=2)
        nn.init.constant_(self.last.bias, -100)
        self.layer = nn.ReLU()

    def forward(self, x):
        return self.layer(self.last(self.cut(self.first(x))))


@pytest.mark.parametrize(
    "cut",
    [
        lambda x: x[..., :-2],
        lambda x: x[..., 2:],
        lambda x: x[..., :50],
        lambda x: x.chunk(2, -1)[0],
        lambda x: nn.functional.pad(x, (-3, 3)),
    ],
)
def test_neurons_of_slices_where_no_activation_could_tell_a_wrong_crop(cut, photographs):
    """A deconvnet reads no activations, so a dead layer's neurons have gradients too."""
    method = NeuronDeconvnet(Sliced(cut), "layer")
    selectors = [(0, 70, column) for column in (0, 20, 47)]
    for selector, found in zip(selectors, ask(method, photographs, selectors), strict=True):
        expected = method.attribute(photographs, selector)
        assert expected.any()
        torch.testing.assert_close(found, expected)


class Halving(nn.Module):
    def forward(self, x):
        x = x * 1
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient / 2)
        return x


def test_a_hook_on_the_layers_tensor_is_called_once(photographs):
    model = make_network()
    model[6] = Halving()
    method = NeuronDeconvnet(model, "6")
    for found, selector in zip(ask(method, photographs, CORNERS), CORNERS, strict=True):
        expected = method.attribute(photographs, selector)
        assert expected.any()
        assert torch.equal(found, expected)


def test_crops_of_a_network_in_train_mode_pass_with_the_buffers_of_the_images(photographs):
    """A spectral norm moves its vectors on with each pass, and the weights with them."""
    model, images = make_network().double(), photographs.double()
    model[5] = nn.utils.parametrizations.spectral_norm(model[5]).train()
    before = Snapshot(model)
    method = NeuronDeconvnet(model, "5")
    for found, selector in zip(ask(method, images, CORNERS), CORNERS, strict=True):
        expected = method.attribute(images, selector)
        torch.testing.assert_close(
            found, expected, rtol=0, atol=float(1e-13 * expected.abs().max())
        )
    before.assert_unchanged()


@pytest.mark.filterwarnings("ignore:the model is in train mode")
def test_a_network_that_draws_random_numbers_is_asked_in_the_whole_image(photographs, sizes):
    model = make_network(kept=nn.Dropout(0.5))
    model[3].train()
    hook, seen = sizes
    model.register_forward_pre_hook(hook)
    method = NeuronDeconvnet(model, "5")
    torch.manual_seed(1)
    (found, *_) = ask(method, photographs, CORNERS)
    assert seen == [(SIDE, SIDE)]
    torch.manual_seed(1)
    assert torch.equal(found, method.attribute(photographs, CORNERS[0]))
