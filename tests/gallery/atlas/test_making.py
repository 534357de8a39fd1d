"""An atlas is what its parts say it is, wherever it was cut off and however many made it."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import OrderedDict

import atlas_program
import atlases
import pytest
import torch
from atlases import METHODS, Pictures, build_network, make, read_all

from captum_deconv import gallery
from captum_deconv.drawing.files import OutputError
from captum_deconv.features import UnreadableSampleError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("atlas") / "site"
    lines = []
    atlas = make(folder, report=lines.append)
    return atlas, lines


def test_what_will_be_done_is_told_before(made):
    _, lines = made
    assert lines[0] == "5 layers, chosen as the rectified outputs of the stages:"
    assert lines[2] == "  blocks: the last rectifier's output of 2 repeated blocks (Block)"
    assert "for 30 images and 828 projections" in lines[-1]
    assert " kB, " in lines[-1]


def test_it_holds_what_a_scan_and_projections_give(made):
    atlas, _ = made
    model, data = build_network(), Pictures()
    assert [layer.name for layer in atlas.layers] == ["stem", "blocks", "left", "right", "joined"]
    assert atlas.layers[0].dead == 1
    assert atlas.layer("stem").size == (3, 3)
    assert atlas.labels == atlases.LABELS
    for name in ("blocks", "joined"):
        found = gallery.project(atlas.index, model, data, layer=name, method=METHODS)
        assert atlas.index.maxima[name].shape == (30, len(found.channels))
        for channel in (0, 3):
            for method in METHODS:
                # Kept to the bit in 256 levels of a scale that cuts off half a percent.
                exact, read = found.by_method[method][channel], atlas.projections
                read = read(name, channel, method)
                scale = exact.abs().flatten(1).amax(1).clamp(min=1e-9).view(-1, 1, 1, 1)
                near = ((read - exact).abs() <= 0.01 * scale) | (exact.abs() >= 0.9 * scale)
                assert near.float().mean() > 0.99
            shown = torch.stack([found.show_patch(channel, rank) for rank in range(9)])
            assert torch.equal(atlas.patches(name, channel), shown)
    spread = atlas.spread("joined")
    assert spread.images == 30
    assert len(spread.labels) == 40


def test_what_the_atlas_does_not_show(made):
    atlas, _ = made
    with pytest.raises(KeyError, match=r"no layer 'blokcs'.*blocks"):
        atlas.layer("blokcs")
    with pytest.raises(KeyError, match="no projections by 'input_gradient'"):
        atlas.projections("stem", 0, "input_gradient")
    with pytest.raises(IndexError, match="does not show channel 6 of layer 'stem'"):
        atlas.patches("stem", 6)


def test_the_same_again_is_there_at_once(made):
    atlas, _ = made
    before = read_all(atlas.folder)
    again = make(atlas.folder, checkpoint_seconds=5, num_workers=0)
    assert again.layers == atlas.layers
    assert read_all(atlas.folder) == before


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"layers": ["stem"]}, r"layers: .*not \['stem'\]"),
        ({"methods": ["deconvnet"]}, "methods: "),
        ({"k": 3}, "k: 9, not 3"),
    ],
)
def test_another_atlas_is_not_overwritten(made, change, match):
    atlas, _ = made
    before = read_all(atlas.folder)
    with pytest.raises(gallery.AtlasError, match=rf"an atlas of something else.*{match}"):
        make(atlas.folder, **change)
    assert read_all(atlas.folder) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(gallery.AtlasError, match=r"something else than an atlas \(thesis.tex\)"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(OutputError):
        make(tmp_path / "thesis.tex")


def test_options_out_of_range(tmp_path):
    with pytest.raises(ValueError, match="channels must be at least 1, not 0"):
        make(tmp_path / "site", channels=0)
    with pytest.raises(ValueError, match=r"unknown method 'magic'"):
        make(tmp_path / "site", methods="magic", checkpoints=None)
    with pytest.raises(UnreadableSampleError, match="none of the 0 samples can be read"):
        gallery.atlas(build_network(), [], tmp_path / "site")


def test_what_is_no_atlas(tmp_path, made):
    with pytest.raises(gallery.AtlasError, match=r"holds no complete atlas .no atlas\.json"):
        gallery.Atlas.open(tmp_path)
    shutil.copytree(made[0].folder, tmp_path / "copy")
    manifest = tmp_path / "copy" / "atlas" / "atlas.json"
    text = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**text, "format": "other"}))
    with pytest.raises(gallery.AtlasError, match="of another format"):
        gallery.Atlas.open(tmp_path / "copy")
    manifest.write_text("{")
    with pytest.raises(gallery.AtlasError, match="no manifest of an atlas"):
        gallery.Atlas.open(tmp_path / "copy")
    manifest.unlink()
    with pytest.raises(gallery.AtlasError, match="run the same command again"):
        gallery.Atlas.open(tmp_path / "copy")


def test_the_first_channels_only(tmp_path):
    atlas = make(
        tmp_path / "site", channels=4, layers=["joined"], checkpoints=None, methods="deconvnet"
    )
    assert atlas.layers[0].channels == (0, 1, 2, 3)
    assert atlas.index.values["joined"].shape[0] == 40
    assert "The first 4 of 40 channels" in (tmp_path / "site" / "layer-joined.html").read_text()


def test_layers_whose_names_make_the_same_file_have_pages_each(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    for number, name in enumerate(["a/b", "a b", "A_b"]):
        model.add_module(name, torch.nn.Conv2d(3 if number == 0 else 4, 4, 3))
    found = gallery.atlas(
        model.eval(), Pictures(), tmp_path / "site", ["a/b", "a b", "A_b"], progress=False
    )
    pages = [layer.page for layer in found.layers]
    assert len({page.lower() for page in pages}) == 3
    assert all((tmp_path / "site" / page).exists() for page in pages)


def test_the_front_page_says_which_layers_see_all_of_the_image(tmp_path):
    class Centred(torch.nn.Module):
        def forward(self, x):
            return x - x.mean((2, 3), keepdim=True)

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=2), Centred()).eval()
    images = list(torch.rand(4, 3, 16, 16))
    found = gallery.atlas(model, images, tmp_path, ["0", "1"], progress=False)
    assert [layer.size for layer in found.layers] == [(3, 3), None]
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "4 channels \u00b7 7 \u00d7 7 \u00b7 sees 3 \u00d7 3 \u00b7 stride 2" in text
    assert "4 channels \u00b7 7 \u00d7 7 \u00b7 sees all of the image" in text


def test_a_checkpoint_shows_the_layers_it_has(tmp_path):
    stem = torch.nn.Sequential(OrderedDict(stem=build_network(1).stem)).eval()
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval()
    images = list(torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    gallery.atlas(
        *(build_network(), images, tmp_path, ["stem", "pool"]),
        checkpoints={"other": other, "stem": stem},
        progress=False,
    )
    drawn = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("step-*.webp"))
    assert drawn == ["pictures/stem/step-1-0.webp"]


def test_what_was_left_half_written_is_removed(tmp_path):
    images = list(torch.rand(4, 3, 16, 16))
    gallery.atlas(build_network(), images, tmp_path, ["stem"], progress=False)
    (tmp_path / "atlas" / "atlas.json").unlink()  # as if it had been killed before the end
    (tmp_path / "pictures" / "stem" / ".half").mkdir()
    (tmp_path / "pictures" / "stem" / ".half" / "strip-0.webp").write_bytes(b"half")
    (tmp_path / ".half-index.html").write_text("half")
    gallery.atlas(build_network(), images, tmp_path, ["stem"], progress=False)
    assert not [path for path in tmp_path.rglob("*") if "half" in path.name]
    assert (tmp_path / "index.html").is_file()


def test_every_layer_has_a_door_also_one_that_the_output_does_not_use(tmp_path):
    class Aside(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.aside = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(3, 4, 3)

        def forward(self, x):
            self.aside(x)
            return self.conv(x)

    images, names = list(torch.rand(4, 3, 8, 8)), ["conv", "aside"]
    gallery.atlas(Aside().eval(), images, tmp_path, names, progress=False)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    for name in names:
        assert text.count(f'class="door" href="layer-{name}.html"') == 1


def test_labels_without_names_are_numbered(tmp_path):
    images = [(torch.rand(3, 16, 16), number % 2) for number in range(8)]
    found = gallery.atlas(build_network(), images, tmp_path / "a", ["stem"], progress=False)
    assert found.labels == ("label 0", "label 1")
    plain = [image for image, _ in images]
    found = gallery.atlas(build_network(), plain, tmp_path / "b", ["stem"], progress=False)
    assert found.labels == ()


def count_files(folder):
    """Count them while another process makes and renames some."""
    return sum(path.is_file() for path in folder.rglob("*"))


def test_killed_ten_times_the_site_is_the_same(tmp_path, made):
    atlas, _ = made
    chance = random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["captum_deconv.gallery"])
    folder, kills = tmp_path / "site", 0
    for _ in range(10):
        process = context.Process(target=atlases.run, args=(folder, 0.002))
        process.start()
        before = count_files(folder)
        # The moment is random from when there is something new to lose.
        while process.is_alive() and count_files(folder) <= before:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.2))
        if not process.is_alive():
            break
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills > 4, "it was interrupted, at several places"
    process = context.Process(target=atlases.run, args=(folder, 0))
    process.start()
    process.join()
    assert process.exitcode == 0
    expected, found = read_all(atlas.folder), read_all(folder)
    assert sorted(found) == sorted(expected), "nothing half-written is left"
    different = [name for name, content in expected.items() if found[name] != content]
    assert different == []


def test_two_processes_make_the_same_site(tmp_path, made):
    atlas, _ = made
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", atlas_program.__file__, str(tmp_path / "site"), "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    expected, found = read_all(atlas.folder), read_all(tmp_path / "site")
    assert sorted(found) == sorted(expected)
    assert [name for name, content in expected.items() if found[name] != content] == []
