"""How projections are drawn, in a sheet and on a page; the page in a browser stands elsewhere."""

import dataclasses
from pathlib import Path

import pytest
import torch
from galleries import project_small, scan_small

from captum_deconv import gallery
from captum_deconv.drawing.figures import save_figure
from captum_deconv.drawing.files import OutputError
from captum_deconv.gallery import pictures


@pytest.fixture
def scanned():
    return scan_small()


@pytest.fixture
def found():
    return project_small()


class TestPictures:
    def test_zero_is_grey_and_scales_are_as_named(self, found):
        own = pictures.draw_projections(found, 0, "deconvnet")
        shared = pictures.draw_projections(found, 0, "deconvnet", "channel")
        assert own.dtype == torch.uint8
        assert own.shape[1] == 3
        zero = found.projections[0] == 0
        assert set(own[zero].unique().tolist()) == {128}
        # Each on its own scale reaches an end of the range; on the channel's, the weak do not.
        spread = (own.float() - 128).abs().flatten(1).amax(1)
        assert (spread >= 127).all()
        assert not torch.equal(own, shared)
        with pytest.raises(ValueError, match="unknown normalise"):
            pictures.draw_projections(found, 0, "deconvnet", "none")

    def test_a_grid_has_nine_cells_in_order(self):
        cells = torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).expand(9, 3, 4, 4)
        grid = pictures.lay_grid(cells, 8, gap=0.125)
        assert grid.shape == (3, 3 * 8 + 2, 3 * 8 + 2)
        assert grid[0, 4::9, 4::9].flatten().tolist() == list(range(9))
        assert (grid[0, 8] == 255).all()

    def test_a_sheet_shows_what_was_asked(self, found, tmp_path):
        figure = found.figure([7, 0], normalise="channel", title="$a$ <b>")
        texts = " ".join(text.get_text() for text in figure.texts)
        assert "channel 7" in texts
        assert "channel 0" in texts
        assert "channel 1" not in texts
        assert len(figure.axes) == 2 * 3  # patches and two methods for each
        assert "s the percentile 99.5" in texts
        assert "the channel's projections" in texts
        for suffix in ("png", "pdf"):
            save_figure(figure, tmp_path / f"sheet.{suffix}", dpi=60)
            assert (tmp_path / f"sheet.{suffix}").stat().st_size > 1000
        assert "each projection" in found.figure([0]).texts[-1].get_text() + " ".join(
            text.get_text() for text in found.figure([0]).texts
        )

    def test_dead_channels_are_left_out_of_a_sheet_unless_asked_for(self, found):
        assert len(found.figure().axes) == 7 * 3
        texts = [text.get_text() for text in found.figure([4]).texts]
        assert any(text.startswith("dead") for text in texts)

    def test_as_many_channels_side_by_side_as_asked_for(self, found):
        for columns, across in ((1, 1), (3, 3), (50, 7)):
            texts = [text.get_text() for text in found.figure(columns=columns).texts]
            assert texts.count("Patches") == across

    def test_what_is_dead_altogether_is_drawn_where_it_is_named(self, scanned):
        model, images, index = scanned
        dead = gallery.project(index, model, images, channels=[4])
        with pytest.raises(ValueError, match=r"every channel of layer '6' is dead.*name the chann"):
            dead.figure()
        assert "every channel is dead" in dead._repr_html_()
        texts = [text.get_text() for text in dead.figure([4]).texts]
        assert any(text.startswith("dead") for text in texts)

    def test_a_channel_without_any_sample_says_so(self, found, tmp_path):
        empty = dataclasses.replace(found, samples=found.samples.clone().fill_(-1))
        texts = [text.get_text() for text in empty.figure([0]).texts]
        assert "no activation" in texts
        assert "no activation" in empty.save_html(tmp_path).read_text(encoding="utf-8")

    def test_a_sheet_has_an_end(self, found):
        with pytest.raises(ValueError, match="shows 1 to 120 channels, not 0"):
            found.figure([])
        with pytest.raises(IndexError, match="channel 50"):
            found.figure([50])

    def test_images_are_restored_for_looking_at(self, scanned):
        model, images, index = scanned
        plain = gallery.project(index, model, images, channels=[0])
        sample = int(plain.samples[0, 0])
        shown = plain.images[sample].float() / 255
        assert (shown - images[sample]).abs().max() <= 0.5 / 255 + 1e-6
        restored = gallery.project(
            index, model, images, channels=[0], restore=lambda image: 1 - image
        )
        assert (restored.images[sample].float() / 255 - (1 - images[sample])).abs().max() < 0.01
        assert torch.equal(restored.patches, plain.patches), "patches are as the model took them"


class TestPageFiles:
    def test_a_page_is_self_contained_and_escapes_names(self, found, tmp_path):
        hostile = '<script>alert("x")</script>\'"&</title>.png'
        named = dataclasses.replace(
            found, names=dict.fromkeys(found.names, hostile), about=hostile, layer="6</script>"
        )
        page = named.save_html(tmp_path / "new" / "page", title=hostile)
        text = page.read_text(encoding="utf-8")
        assert page == tmp_path / "new" / "page" / "index.html"
        assert "alert(" in text
        assert "<script>alert" not in text
        assert text.count("</script>") == 2, "the data's and the script's own end, no other"
        assert text.count("</title>") == 1
        assert "http://" not in text
        assert "https://" not in text
        for reference in {part.split('"')[0] for part in text.split('src="')[1:]}:
            assert (page.parent / reference).is_file()

    def test_an_existing_page_stays_until_the_new_one_is_complete(
        self, found, tmp_path, monkeypatch
    ):
        (tmp_path / "mine.txt").write_text("keep")
        page = found.save_html(tmp_path, title="first")
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

        def parts():
            yield dataclasses.replace(found, seed="one")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            gallery.write_page(parts(), tmp_path)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", _refuse)
            with pytest.raises(OutputError, match="cannot be written"):
                found.save_html(tmp_path, normalise="channel")
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []

        found.save_html(tmp_path, title="second", normalise="channel")
        assert "second" in page.read_text(encoding="utf-8")
        assert len(list(tmp_path.glob("pictures-*"))) == 1, "the old pictures are gone"
        assert (tmp_path / "mine.txt").read_text() == "keep"

    def test_the_same_gallery_gives_the_same_page(self, found, tmp_path):
        for name in ("a", "b", "b"):
            found.save_html(tmp_path / name)
        one, other = (
            {
                p.relative_to(tmp_path / n): p.read_bytes()
                for p in (tmp_path / n).rglob("*.*")
                if p.is_file()
            }
            for n in ("a", "b")
        )
        assert one == other
        assert len(one) > 8

    def test_a_layer_may_come_in_parts(self, scanned, found, tmp_path):
        model, images, index = scanned
        methods = list(found.methods)
        parts = (
            gallery.project(index, model, images, channels=part, method=methods)
            for part in (range(5), range(5, 8))
        )
        whole = found.save_html(tmp_path / "whole").read_text(encoding="utf-8")
        assert gallery.write_page(parts, tmp_path / "parts").read_text(encoding="utf-8").count(
            'class="card"'
        ) == whole.count('class="card"')
        with pytest.raises(ValueError, match="channel 0 is in two"):
            gallery.write_page([found, found], tmp_path / "twice")
        with pytest.raises(ValueError, match="these differ"):
            gallery.write_page([found, dataclasses.replace(found, layer="x")], tmp_path / "two")
        with pytest.raises(ValueError, match="no channel"):
            gallery.write_page([], tmp_path / "none")

    def test_a_folder_that_cannot_be(self, found, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError):
            found.save_html(tmp_path / "file")


def _refuse(*args, **kwargs):
    raise OSError(28, "No space left on device")
