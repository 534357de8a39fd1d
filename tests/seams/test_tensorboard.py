"""What TensorBoard's own reader finds in the files that its writer wrote."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from captum_deconv import compare
from captum_deconv.drawing.colours import to_colour, to_magnitude
from captum_deconv.seams.tensorboard import add_attributions, to_pictures


@pytest.fixture
def writer(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        yield writer


def read_images(writer):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer.flush()
    events = EventAccumulator(writer.get_logdir(), size_guidance={"images": 0}).Reload()
    return {
        tag: [
            (event.step, np.asarray(Image.open(io.BytesIO(event.encoded_image_string))))
            for event in events.Images(tag)
        ]
        for tag in events.Tags()["images"]
    }


def cut(grid, count, size):
    """Cut a grid of one row into its pictures."""
    assert grid.shape == (size, count * size, 3)
    return [grid[:, index * size : (index + 1) * size] for index in range(count)]


@pytest.mark.parametrize("style", ["colour", "magnitude"])
def test_pictures_are_written_as_drawn(model, images, writer, style):
    found = compare(model, images, target=2)
    for step in (0, 7):
        add_attributions(writer, "seen", found, step, style=style)
        found = {method: 2 * attribution.flip(3) for method, attribution in found.items()}
    written = read_images(writer)
    assert set(written) == {f"seen/{method}" for method in found}
    for method, attribution in found.items():
        (first, before), (last, after) = written[f"seen/{method}"]
        assert (first, last) == (0, 7)
        for example, picture in enumerate(cut(before, 3, 8)):
            if style == "colour":
                drawn = to_colour(attribution[example])
            else:
                drawn = np.repeat(to_magnitude(attribution[example])[..., None], 3, axis=-1)
            assert np.abs(picture / 255 - drawn).max() <= 0.5 / 255 + 1e-6
        # The second was flipped, and each picture has a scale of its own.
        for one, other in zip(cut(before, 3, 8), cut(after, 3, 8), strict=True):
            assert np.array_equal(one[:, ::-1], other)
            assert not np.array_equal(one, other)


def test_a_tensor_keeps_the_tag(writer):
    add_attributions(writer, "one", torch.randn(2, 1, 4, 4), 3)
    assert list(read_images(writer)) == ["one"]


def test_many_channels_have_a_magnitude_and_no_colour():
    attribution = torch.randn(2, 5, 4, 4)
    assert to_pictures(attribution, "magnitude").shape == (2, 4, 4, 3)
    with pytest.raises(ValueError, match=r"\(3, H, W\)"):
        to_pictures(attribution)


def test_what_cannot_be_written(writer):
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        add_attributions(writer, "one", torch.randn(3, 4, 4))
    with pytest.raises(ValueError, match="colour, magnitude"):
        add_attributions(writer, "one", torch.randn(1, 3, 4, 4), style="color")
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        add_attributions(writer, "two", {"a": torch.randn(1, 3, 4, 4), "b": torch.randn(4)})
    assert read_images(writer) == {}
    with pytest.raises(TypeError, match=r"pip install 'captum-deconv\[lightning\]'"):
        add_attributions(print, "one", torch.randn(1, 3, 4, 4))
