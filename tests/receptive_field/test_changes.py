"""A model on images that differ in a box computes what it computes on the whole images."""

import math
import warnings

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from captum_deconv.receptive_field import changed, changes
from captum_deconv.receptive_field.changed import Changed, sum_channel, whole
from captum_deconv.receptive_field.changes import Changes

BOXES = [((0, 9), (0, 9)), ((11, 20), (30, 39)), ((50, 64), (53, 64)), ((30, 34), (5, 20))]
VALUE = torch.tensor([0.5, -0.25, 2.0])


def cover(image, boxes=BOXES, value=VALUE):
    images = image.repeat(len(boxes), 1, 1, 1)
    for one, (rows, columns) in zip(images, boxes, strict=True):
        one[:, slice(*rows), slice(*columns)] = value.to(image)[:, None, None]
    return images


def draw(*shape, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def assert_same(model, image, boxes=BOXES, *, followed=None, tolerance=1e-12):
    changes = Changes(model, image)
    found = []
    for _ in range(2):  # the second time with what is known
        found.append(changes.run(boxes, VALUE))
    with torch.no_grad():
        expected = model(cover(image, boxes))
        unchanged = model(image.repeat(len(boxes), 1, 1, 1))
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], expected, rtol=tolerance, atol=tolerance)
    # The control: the boxes make a difference that is far larger than what is tolerated.
    assert (expected - unchanged).abs().max() > 100 * tolerance
    if followed is not None:
        assert changes._follows == followed


class Rest(nn.Module):
    """Every operation that is followed, and some that are not, in functions."""

    def __init__(self, operation):
        super().__init__()
        self.operation = operation
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)

    def forward(self, x):
        return self.operation(self.conv(x))


SCALE = draw(1, 6, 1, 1)
OPERATIONS = {
    "strided": lambda x: F.conv2d(x, draw(4, 6, 5, 5), stride=3, padding=2),
    "dilated": lambda x: F.conv2d(x, draw(4, 6, 3, 3), padding=4, dilation=4),
    "grouped": lambda x: F.conv2d(x, draw(6, 1, 3, 3), groups=6),
    "gaps between windows": lambda x: F.conv2d(x, draw(4, 6, 1, 1), stride=7),
    "oblong": lambda x: F.conv2d(x, draw(4, 6, 1, 7), stride=(2, 1), padding=(0, 3)),
    "upright": lambda x: F.conv2d(x, draw(4, 6, 7, 1), stride=(1, 2), padding=(3, 0)),
    "maps as weights": lambda x: F.conv2d(draw(1, 6, 70, 70), x),
    "same": lambda x: F.conv2d(x, draw(4, 6, 4, 4), padding="same"),
    "transposed": lambda x: F.conv_transpose2d(x, draw(6, 4, 3, 3), stride=2),
    "max": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max, rounded up": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "max of windows side by side": lambda x: F.max_pool2d(x, 2),
    "max, oblong": lambda x: F.max_pool2d(x, (1, 3), (1, 2), (0, 1), (1, 2)),
    "mean": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "mean of windows side by side": lambda x: F.avg_pool2d(x, 2),
    "mean, oblong": lambda x: F.avg_pool2d(x, (1, 3), (1, 2), (0, 1)),
    "mean without padding, not counted": lambda x: F.avg_pool2d(x, 3, count_include_pad=False),
    "mean by a divisor": lambda x: F.avg_pool2d(x, 3, 2, 1, divisor_override=5),
    "mean, not counted": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "mean, rounded up": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "switches": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "in place": lambda x: F.relu_(x.add_(1)).mul_(2),
    "padded": lambda x: F.max_pool2d(F.pad(x, (0, 1, 2, 0), value=9.0), 2),
    "padded at the sides": lambda x: F.pad(x, (3, 1)),
    "channels padded": lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
    "cropped": lambda x: F.pad(x, (-3, 0, 0, -5)),
    "reflected": lambda x: F.pad(x, (2, 2, 2, 2), mode="reflect"),
    "channels joined": lambda x: torch.cat([F.conv2d(x, draw(2, 6, 7, 7), padding=3), x], 1),
    "channels joined, from behind": lambda x: torch.cat([x * 2, x], -3).relu(),
    "joined with pooled maps": lambda x: torch.cat([x, F.max_pool2d(x, 3, 1, 1)[:, :2]], 1),
    "rows joined": lambda x: torch.cat([x, x], 2),
    "joined with plain maps": lambda x: torch.cat([x, torch.ones_like(whole(x))], 1),
    "images joined": lambda x: torch.cat([x, x], 0),
    "skip": lambda x: x + F.conv2d(x, draw(6, 6, 5, 5), padding=2),
    "skip over rows": lambda x: x + F.avg_pool2d(x, (1, 64)),
    "weighted skip": lambda x: torch.add(x, x * 2, alpha=3),
    "scaled": lambda x: x * SCALE.to(x),
    "scaled from the left": lambda x: SCALE.to(x)[0] * x - 2,
    "scaled by one number": lambda x: x / torch.full((1, 1, 1, 1, 1), 3.0).to(x)[0],
    "each image scaled": lambda x: x * torch.arange(1.0, len(x) + 1).to(x)[:, None, None, None],
    "each row scaled": lambda x: x * torch.arange(64.0).to(x)[:, None],
    "gated": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "of places": lambda x: x + torch.arange(64.0, dtype=x.dtype),
    "rounded": lambda x: x.float().cumsum(1, dtype=torch.float64),
    "written elsewhere": lambda x: torch.add(x, 1, out=torch.empty(x.shape, dtype=x.dtype)),
    "slice in place": lambda x: (x[:, :2].mul_(3), x * 1)[1],
    "whole in place": lambda x: x.copy_(x.flip(2)),
    "broadcast in place": lambda x: x.mul_(torch.arange(64.0, dtype=x.dtype)),
    "normed": lambda x: F.batch_norm(x, SCALE.flatten().to(x), SCALE.flatten().to(x)),
    "normed by the batch": lambda x: F.batch_norm(x, None, None, training=True),
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "upsampled": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "shuffled": lambda x: F.channel_shuffle(x, 2),
    "numpy": lambda x: torch.from_numpy(x.numpy()) * 2,
    "asked": lambda x: x * (2 if float(x.sum()) > 0 else 3),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_gives_what_it_gives(name):
    torch.manual_seed(0)
    model = Rest(OPERATIONS[name]).double().eval()
    assert_same(model, draw(3, 64, 64))


# What mixes all places, images or channels, or asks for values, gets the whole maps; what has to
# see them written, or switches, ends the following.
WHOLE = {
    *("transposed", "mean, not counted", "mean, rounded up", "cropped", "reflected", "gated"),
    *("images joined", "rows joined", "joined with plain maps", "joined with pooled maps"),
    *("each image scaled", "each row scaled", "of places", "channels padded", "layer norm"),
    *("slice in place", "whole in place", "upsampled", "shuffled", "asked"),
    *("maps as weights", "skip over rows", "rounded", "written elsewhere", "normed by the batch"),
}
ENDS = {"switches": TypeError, "broadcast in place": TypeError, "numpy": RuntimeError}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_followed_or_gets_the_whole_maps(name):
    """Whichever it is, the result is right; that it is followed is seen here alone."""
    torch.manual_seed(0)
    model = Rest(OPERATIONS[name]).double().eval()
    boxes, image = BOXES[:2], draw(3, 64, 64)
    maps = changes._fill(image[None], boxes, VALUE, changed.Known())
    with torch.no_grad():
        if name in ENDS:
            with pytest.raises(ENDS[name]):
                model(maps)
            return
        found = model(maps)
        expected = model(cover(image, boxes))
    if name in WHOLE:
        assert type(found) is Tensor or found._whole is not None
    else:
        assert type(found) is Changed
        assert found._whole is None
        assert found.patches[0, 0].numel() < 0.2 * math.prod(found.shape[2:])
        assert found.shape == expected.shape
        total = sum_channel(found, 1)
        torch.testing.assert_close(total, expected[:, 1].sum((1, 2)), rtol=1e-12, atol=1e-9)
        assert found._whole is None
    torch.testing.assert_close(whole(found), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sum_channel(found, 1), expected[:, 1].sum((1, 2)))


def test_only_what_changes_is_computed():
    """In a chain of what is followed no map is made whole before the end."""
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU6(),
    )
    chain = chain.double().eval()
    seen = []
    handle = chain[5].register_forward_hook(lambda _, args, output: seen.append(output))
    small = BOXES[:2]
    found = Changes(chain, draw(3, 64, 64)).run(small, VALUE)
    handle.remove()
    (maps,) = seen
    assert isinstance(maps, Changed)
    assert maps.patches.shape[2] * maps.patches.shape[3] < 16 * 16 / 4
    total = sum_channel(maps, 3)
    torch.testing.assert_close(total, found[:, 3].sum((1, 2)))
    assert torch.equal(whole(maps), found)
    assert_same(chain, draw(3, 64, 64), small, followed=True)


def test_what_was_given_stays_as_it_was(model):
    image = torch.rand(3, 8, 8)
    before, state = image.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    Changes(model, image).run([((0, 3), (2, 5))], VALUE)
    assert torch.equal(image, before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_what_is_known_is_computed_once_and_only_of_the_same():
    ran = []

    def scale(maps, by, *, plus=0):
        ran.append((by, plus))
        return maps * by + plus

    known, maps, other = changed.Known(), torch.ones(2), torch.zeros(2)
    for args, kwargs in (
        # Equal numbers need not be one object.
        *(((maps, 2.0), {}), ((maps, float("2")), {}), ((maps, 3), {}), ((other, 3), {})),
        *(((other, 3), {"plus": 1}), ((other, 3), {"plus": 1}), ((other.clone(), 3), {"plus": 1})),
    ):
        known.begin()
        assert torch.equal(
            known.compute(scale, args, kwargs), args[0] * args[1] + kwargs.get("plus", 0)
        )
    assert ran == [(2, 0), (3, 0), (3, 0), (3, 1), (3, 1)]


def test_a_model_that_changes_its_mind():
    """What is known of the last pass is used only where the next one does the same."""

    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
            self.first = True

        def forward(self, x):
            self.first = not self.first
            return (self.one if self.first else self.other)(x)

    torch.manual_seed(0)
    model = Moody().double().eval()
    image = draw(3, 64, 64)
    changes = Changes(model, image)
    for _ in range(3):
        found = changes.run(BOXES, VALUE)
        model.first = not model.first
        with torch.no_grad():
            torch.testing.assert_close(found, model(cover(image)), rtol=1e-12, atol=1e-12)
    # The control: the two differ.
    with torch.no_grad():
        assert not torch.allclose(model(cover(image)), found)


def test_a_model_that_fails_says_why():
    class Failing(nn.Module):
        def forward(self, x):
            raise RuntimeError("its own reason")

    with pytest.raises(RuntimeError, match="its own reason"):
        Changes(Failing(), draw(3, 8, 8)).run([((0, 2), (0, 2))], VALUE)


def test_boxes_of_two_sizes_from_one_corner():
    """A change at the image's edge grows to one side only: the starts alone do not tell."""
    torch.manual_seed(0)
    model = Rest(lambda x: x + F.max_pool2d(x, 3, 1, 1)).double().eval()
    assert_same(model, draw(3, 64, 64), BOXES[:1], followed=True)


def test_a_skip_and_shared_rectifiers(model):
    boxes = [((0, 2), (0, 2)), ((6, 8), (5, 7))]
    assert_same(model.double(), draw(3, 8, 8), boxes, followed=True)


@pytest.mark.parametrize(
    "name",
    [
        *("alexnet", "resnet18", "googlenet", "inception_v3", "densenet121", "mobilenet_v3_small"),
        *("shufflenet_v2_x0_5", "squeezenet1_1", "regnet_y_400mf", "convnext_tiny", "vit_b_32"),
    ],
)
@pytest.mark.slow
def test_torchvisions_networks(name):
    options = {"init_weights": True} if name == "googlenet" else {}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inception's own, of how slowly its weights are drawn
        model = torchvision.models.get_model(name, weights=None, **options).double().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    side = 224 if name == "vit_b_32" else 96
    boxes = [((0, 20), (0, 20)), ((40, 60), (50, 70)), ((side - 20, side), (side - 13, side))]
    image = draw(3, side, side)
    # In double precision, where what a random network makes of rounding is still small.
    changes = Changes(model, image)
    found = changes.run(boxes, VALUE)
    with torch.no_grad():
        expected = model(cover(image, boxes))
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 1e-9 * scale
    assert (expected[0] - expected[1]).abs().max() > 1e-7 * scale
    assert changes._follows
