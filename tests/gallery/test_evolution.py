import copy

import pytest
import torch
from torch import nn

from captum_deconv import features, gallery
from captum_deconv.drawing.figures import save_figure
from captum_deconv.gallery.evolution import evolution
from captum_deconv.sources import embedded


@pytest.fixture(scope="module")
def images():
    return torch.rand(6, 3, 24, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def models():
    steps = embedded.list_checkpoints()
    return {step: embedded.load_checkpoint(step) for step in (steps[0], steps[-1])}


@pytest.fixture(scope="module")
def found(models, images):
    return evolution(models, "relu2", images, channels=[3, 0, 7], batch_size=4)


def test_each_column_is_that_checkpoint_alone(found, models, images):
    assert found.channels == (3, 0, 7)
    assert found.labels == tuple(map(str, models))
    for column, model in enumerate(models.values()):
        with torch.no_grad():
            maps = model[:5](images)  # the oracle: the strongest of all, by hand
        for row, channel in enumerate(found.channels):
            best = maps[:, channel].max()
            torch.testing.assert_close(found.values[row, column], best)
            sample = int(maps[:, channel].flatten(1).amax(1).argmax())
            assert int(found.samples[row, column]) == sample
        index = features.scan(model, "relu2", images, k=1, batch_size=4, progress=False)
        alone = gallery.project(index, model, images, channels=[3, 0, 7])
        assert torch.equal(found.projections[:, column], alone.projections[:, 0])
        assert found.projections[:, column].abs().amax() > 0
    # The control: the checkpoints differ.
    assert not torch.equal(found.projections[:, 0], found.projections[:, 1])


def test_the_figure_has_a_cell_for_each_channel_and_checkpoint(found, tmp_path):
    for patches in (False, True):
        figure = found.figure(patches=patches)
        assert len(figure.axes) == 3 * 2 * (2 if patches else 1)
        texts = [text.get_text() for text in figure.texts]
        assert set(found.labels) | {"0", "3", "7"} <= set(texts)
        assert "5" not in texts
    assert "deconvnet" in texts[-2] + texts[-1]
    titled = found.figure(title="$a$ <b>")
    assert "$a$ <b>" in [text.get_text() for text in titled.texts]
    assert titled.get_figheight() > found.figure().get_figheight()
    assert len(found.figure([7]).axes) == 2
    save_figure(figure, tmp_path / "a.png", dpi=50)
    assert (tmp_path / "a.png").stat().st_size > 0


def test_rows_stand_in_the_order_of_the_channels(found):
    figure = found.figure(columns=1)
    heights = {t.get_text(): t.get_position()[1] for t in figure.texts if t.get_text() in "307"}
    assert heights["3"] > heights["0"] > heights["7"]
    swapped = found.figure([7, 3, 0], columns=1)
    heights = {t.get_text(): t.get_position()[1] for t in swapped.texts if t.get_text() in "307"}
    assert heights["7"] > heights["3"] > heights["0"]


def test_a_mapping_is_asked_for_one_model_at_a_time(models, images):
    asked = []

    class Lazy(dict):
        def __getitem__(self, label):
            asked.append(label)
            return super().__getitem__(label)

    evolution(Lazy(models), "relu1", images, channels=[0])
    assert asked == list(models)


def test_what_cannot_be_shown_is_refused(found, models, images):
    with pytest.raises(ValueError, match="models is empty"):
        evolution({}, "relu1", images)
    with pytest.raises(IndexError, match="channel 5 is not shown"):
        found.figure([5])
    with pytest.raises(ValueError, match="1 to 120 channels"):
        found.figure([])
    narrow = copy.deepcopy(models[max(models)])
    narrow.conv2 = nn.Conv2d(32, 64, 3, padding=1)
    with pytest.raises(ValueError, match="checkpoints of one network"):
        evolution({"a": models[max(models)], "b": narrow.eval()}, "relu2", images, channels=[0])


def test_its_home_is_the_gallery():
    from captum_deconv import features, gallery

    assert gallery.evolution is evolution
    assert not hasattr(features, "evolution")
