import io
import struct
import warnings
import zlib

import numpy as np
import PIL
import pytest
from PIL import Image

from captum_deconv.sources.images import ImageError, read_demo_image, read_image


def save(image, path, **options):
    image.save(path, **options)
    return path


def test_rgb_is_read_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    photograph = read_image(save(Image.fromarray(pixels), tmp_path / "a.png"))
    assert photograph.name == "a.png"
    assert photograph.notes == ()
    assert np.array_equal(np.asarray(photograph.image), pixels)


def test_orientation_is_honoured(tmp_path):
    image = Image.new("RGB", (8, 4), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter, clockwise
    path = save(image, tmp_path / "turned.png", exif=exif)
    read = read_image(path).image
    assert read.size == (4, 8)
    assert read.getpixel((3, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    photograph = read_image(save(image.convert(mode), tmp_path / "a.png"))
    assert photograph.image.mode == "RGB"
    assert photograph.image.getpixel((0, 0)) == (255, 255, 255)
    assert photograph.image.getpixel((1, 0)) == (0, 0, 0)
    assert "white" in photograph.notes[0]


def test_opaque_alpha_is_not_worth_a_note(tmp_path):
    path = save(Image.new("RGBA", (2, 2), (1, 2, 3, 255)), tmp_path / "a.png")
    assert read_image(path).notes == ()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path, mode):
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow before 13 does not read its own TIFF of this mode")
    path = save(Image.new("RGB", (3, 3), "white").convert(mode), tmp_path / "a.tif")
    read = read_image(path).image
    assert read.mode == "RGB"
    assert min(read.getpixel((1, 1))) >= 254


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 32768, 65535]], dtype=np.uint16)
    photograph = read_image(save(Image.fromarray(values), tmp_path / "deep.png"))
    assert [photograph.image.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    assert "8 bits" in photograph.notes[0]


def test_float_grey(tmp_path):
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    read = read_image(save(Image.fromarray(values), tmp_path / "unit.tif")).image
    assert [read.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    for bad, word in ((np.nan, "NaN"), (1e6, "scale")):
        values[0, 0] = bad
        path = save(Image.fromarray(values), tmp_path / "bad.tif")
        with pytest.raises(ImageError, match=word):
            read_image(path)


def test_first_of_several_frames(tmp_path):
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    path = tmp_path / "two.tif"
    red.save(path, save_all=True, append_images=[blue])
    photograph = read_image(path)
    assert photograph.image.getpixel((0, 0)) == (255, 0, 0)
    assert "2 frames" in photograph.notes[0]


def test_no_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\nnothing"])
def test_no_image(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.png: (not an image|damaged)"):
        read_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    path = tmp_path / "half"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(ImageError, match="damaged or truncated"):
        read_image(path)


def bomb(path, side):
    """Write a PNG whose header promises `side` x `side` pixels."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bomb(tmp_path, side):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the refusal must not hang on the caller's filters
        with pytest.raises(ImageError, match="decompression bomb"):
            read_image(bomb(tmp_path / "bomb.png", side))


def test_strip(tmp_path):
    with pytest.raises(ImageError, match="strip"):
        read_image(save(Image.new("L", (1000, 3)), tmp_path / "strip.png"))


def test_demo_image():
    assert read_demo_image().image.size == (451, 300)
