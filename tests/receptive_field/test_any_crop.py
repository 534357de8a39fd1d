"""Networks drawn at random: no neuron can tell its crop from the image."""

from functools import partial, reduce

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from captum_deconv.receptive_field import ReceptiveField, crops, field, trace


def weigh(*shape):
    # All above zero, so that whatever is left out of a sum changes it.
    return torch.linspace(0.5, 1.5, torch.Size(shape).numel(), dtype=torch.double).reshape(shape)


def convolve(x, kernel, **how):
    return F.conv1d(x, weigh(2, 2, kernel), weigh(2), **how)


def convolve_back(x, kernel, **how):
    return F.conv_transpose1d(x, weigh(2, 2, kernel), weigh(2), **how)


def pool(x, kernel, stride, padding, dilation, ceil_mode):
    settings_ = [(1, kernel), (1, stride), (0, min(padding, kernel // 2)), (1, dilation)]
    return F.max_pool2d(x[:, :, None], *settings_, ceil_mode=ceil_mode)[:, :, 0]


def average(x, kernel, stride, padding, **how):
    return F.avg_pool1d(x, kernel, stride, min(padding, kernel // 2), **how)


def resample(x, **how):
    return F.interpolate(x, **how)


def cut(x, start, stop, step):
    return x[..., start:stop:step]


def split(x, size, number):
    return x.split(size, -1)[number]


def skip(x, reach):
    return x + F.conv1d(x, weigh(2, 2, 2 * reach + 1), padding=reach)


def concatenate(x, first):
    return torch.cat([x, convolve(x, 3, padding=1)], 1)[:, first : first + 2]


def add_pairs(x):
    return x.unflatten(-1, (-1, 2)).sum(-1)


def draw(function, **options):
    return st.builds(partial, st.just(function), **options)


def upto(last, first=0):
    return st.integers(first, last)


CONVOLUTION = draw(
    convolve, kernel=upto(5, 1), stride=upto(3, 1), padding=upto(3), dilation=upto(3, 1)
)
MODES = ["linear", "nearest", "nearest-exact"]
OPERATIONS = st.one_of(
    CONVOLUTION,
    CONVOLUTION,
    draw(
        convolve_back,
        kernel=upto(4, 1),
        stride=upto(3, 1),
        padding=upto(2),
        output_padding=upto(1),
        dilation=upto(2, 1),
    ),
    draw(
        pool,
        kernel=upto(4, 1),
        stride=upto(4, 1),
        padding=upto(2),
        dilation=upto(2, 1),
        ceil_mode=st.booleans(),
    ),
    draw(
        average,
        kernel=upto(4, 1),
        stride=upto(4, 1),
        padding=upto(2),
        ceil_mode=st.booleans(),
        count_include_pad=st.booleans(),
    ),
    draw(
        resample,
        scale_factor=st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]),
        mode=st.sampled_from(MODES),
    ),
    draw(resample, size=upto(30, 4), mode=st.sampled_from(MODES)),
    draw(
        cut,
        start=st.sampled_from([None, 0, 1, 2, 5, -9]),
        stop=st.sampled_from([None, -1, -2, 9, 17]),
        step=upto(3, 1),
    ),
    draw(split, size=upto(20, 3), number=upto(1)),
    draw(F.pad, pad=st.tuples(upto(3, -2), upto(3, -2)), mode=st.just("constant"), value=upto(1)),
    draw(F.pad, pad=st.tuples(upto(3), upto(3)), mode=st.sampled_from(["reflect", "replicate"])),
    draw(skip, reach=upto(2)),
    draw(concatenate, first=upto(2)),
    draw(add_pairs),
)


def differ(operations, length, grown):
    """Return the neurons that tell their crops from the image, and how many crops there are."""
    image = torch.rand(1, 2, length, generator=torch.Generator().manual_seed(0)).double()
    leaf = image.clone().requires_grad_()

    def run(x):
        return reduce(lambda x, operation: operation(x), operations, x)

    try:
        output = run(leaf.clone())
    except (RuntimeError, ValueError, IndexError):
        assume(False)  # a map has become too short
    assume(output.shape[-1] > 0)
    traced = trace(output, leaf)
    cuts = [crops.cut(traced, (place,)) for place in range(output.shape[-1])]
    if grown:
        most = max(cut.size for cut in cuts)
        cuts = [crops.cut(traced, (place,), most) for place in range(len(cuts))]
        assert {cut.size for cut in cuts} == {most}
    found, compared = [], 0
    for place, one in enumerate(cuts):
        if one.size == (length,):
            assert one.position == (place,)
            continue
        try:
            part = run(one.cut_from(image[0])[None])
        except (RuntimeError, ValueError, IndexError):
            continue  # a crop that is too short is not asked, but the image
        compared += 1
        (position,) = one.position
        there = (
            part[..., position]
            if 0 <= position < part.shape[-1]
            else torch.zeros((), dtype=torch.double)
        )
        if not torch.allclose(there, output[..., place]):
            found.append(place)
    return found, compared


def run_all(check):
    """Draw networks, the same ones each time."""
    chosen = settings(
        max_examples=400,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    operations = st.lists(OPERATIONS, min_size=1, max_size=5)
    given(operations, st.integers(24, 48), st.booleans())(chosen(check))()


def test_no_neuron_can_tell():
    counts = []

    def check(operations, length, grown):
        found, compared = differ(operations, length, grown)
        counts.append(compared)
        assert not found

    run_all(check)
    assert sum(counts) > 2000


@pytest.mark.parametrize("fault", ["only what is seen", "every slice moves along"])
def test_one_can_where_crops_are_cut_wrongly(fault, monkeypatch):
    """The control."""
    if fault == "only what is seen":
        monkeypatch.setattr(ReceptiveField, "reach", ReceptiveField.box)
    else:
        monkeypatch.setattr(field._Stage, "equivariant", True)
    told = []

    def check(operations, length, grown):
        told.extend(differ(operations, length, grown)[0])

    run_all(check)
    assert told
