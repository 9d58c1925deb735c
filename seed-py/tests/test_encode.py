"""Every kind of image gives the codes that the command line gives."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image
from seed_tokenizer import SeedTokenizer
from seed_tokenizer.errors import ArgumentError, ImageError, ImageTooLargeError, InputTypeError, MissingFileError


class Tensor:
    """A tensor of another library, on the CPU: it gives its pixels by one protocol alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


class ArrayTensor(Tensor):
    """One that has the array protocol."""

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return self.array


class DlpackTensor(Tensor):
    """One that has DLPack."""

    def __dlpack__(self, **options: object) -> object:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class DistantTensor(Tensor):
    """One that is not on the CPU."""

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


KINDS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "text": lambda path, array: str(path),
    "path": lambda path, array: path,
    "bytes": lambda path, array: path.read_bytes(),
    "bytearray": lambda path, array: bytearray(path.read_bytes()),
    "memoryview": lambda path, array: memoryview(path.read_bytes()),
    "file": lambda path, array: path.open("rb"),
    "bytesio": lambda path, array: io.BytesIO(path.read_bytes()),
    "pil": lambda path, array: Image.open(path),
    "pil palette": lambda path, array: Image.open(path).convert("RGBA"),
    "array": lambda path, array: array,
    "read-only array": lambda path, array: np.frombuffer(array.tobytes(), np.uint8).reshape(array.shape),
    "array with strides": lambda path, array: np.asfortranarray(array),
    "array with alpha": lambda path, array: np.dstack([array, np.full(array.shape[:2], 7, np.uint8)]),
    "array protocol": lambda path, array: ArrayTensor(array),
    "dlpack": lambda path, array: DlpackTensor(array.copy()),
    "mapping": lambda path, array: MappingProxyType({"path": path}),
    "dict of bytes": lambda path, array: {"bytes": path.read_bytes(), "path": None},
    "dict of path": lambda path, array: {"bytes": None, "path": str(path)},
}


@pytest.fixture(scope="module")
def expected(paths: list[Path]) -> np.ndarray:
    """What the command line says, in a process of its own."""
    command = [sys.executable, "-m", "seed_tokenizer", "encode", "--json", *map(str, paths)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return np.array([json.loads(line)["codes"] for line in lines], np.uint16)


@pytest.mark.parametrize("kind", KINDS)
def test_kind(seed: SeedTokenizer, paths: list[Path], arrays: list[np.ndarray], expected: np.ndarray, kind: str) -> None:
    images = [KINDS[kind](path, array) for path, array in zip(paths, arrays, strict=True)]
    codes = seed.encode(images)
    assert codes.dtype == np.uint16 and codes.shape == (len(paths), 32)
    np.testing.assert_array_equal(codes, expected)
    single = seed.encode(KINDS[kind](paths[1], arrays[1]))
    assert single.shape == (32,)
    np.testing.assert_array_equal(single, expected[1])


def test_mixed_kinds_in_any_iterable(
    seed: SeedTokenizer, paths: list[Path], arrays: list[np.ndarray], expected: np.ndarray
) -> None:
    mixed = [str(paths[0]), arrays[1], Image.open(paths[2]), {"bytes": paths[3].read_bytes()}]
    for images in (mixed, tuple(mixed), iter(mixed), np.array([*mixed, None], object)[:-1]):
        np.testing.assert_array_equal(seed.encode(images), expected)
    np.testing.assert_array_equal(seed.encode(np.stack(arrays)), expected)
    np.testing.assert_array_equal(seed.encode(DlpackTensor(np.stack(arrays))), expected)


def test_many_images_are_split_and_none_are_none(seed: SeedTokenizer, arrays: list[np.ndarray], expected: np.ndarray) -> None:
    codes = seed.encode(arrays * 20)
    np.testing.assert_array_equal(codes, np.tile(expected, (20, 1)))
    assert seed.encode([]).shape == (0, 32)


def test_large_arrays_are_what_their_files_are(seed: SeedTokenizer) -> None:
    """More than are resized at a time, between others that are copied; the caller's memory stays as it was."""
    rng = np.random.default_rng(1)
    large = [rng.integers(0, 256, (500 + i, 640 - i, 3), np.uint8) for i in range(36)]
    kept = [array.copy() for array in large]
    assert sum(array.nbytes for array in large) > 32 << 20
    mixed: list[object] = [*large, large[0][:, ::2], large[1][..., :1], large[2][:40, :40], Image.fromarray(large[3])]
    found = seed.encode(mixed)
    as_files = []
    for image in mixed:
        png = io.BytesIO()
        array = np.asarray(image)
        Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(png, format="PNG", compress_level=0)
        as_files.append(png.getvalue())
    np.testing.assert_array_equal(found, seed.encode(as_files))
    np.testing.assert_array_equal(seed.encode(large[0]), found[0])
    for array, before in zip(large, kept, strict=True):
        np.testing.assert_array_equal(array, before)


def test_grey_is_three_equal_channels(seed: SeedTokenizer) -> None:
    grey = np.arange(64 * 48, dtype=np.uint32).reshape(64, 48).astype(np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(seed.encode([grey, grey[..., None]]), seed.encode([colour, colour]))


def test_margins(seed: SeedTokenizer, paths: list[Path], expected: np.ndarray) -> None:
    codes, margins = seed.encode(paths, return_margins=True)
    np.testing.assert_array_equal(codes, expected)
    assert margins.dtype == np.float32 and margins.shape == codes.shape and (margins >= 0).all() and margins.max() > 0
    code, margin = seed.encode(paths[2], return_margins=True)
    assert code.shape == margin.shape == (32,)
    np.testing.assert_allclose(margin, margins[2], rtol=1e-3, atol=1e-4)


def test_pixels_that_are_normalised_already(seed: SeedTokenizer, arrays: list[np.ndarray], expected: np.ndarray) -> None:
    pixels = seed.preprocess(arrays)
    assert pixels.dtype == np.float32 and pixels.shape == (len(arrays), 3, seed.image_size, seed.image_size)
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    assert arrays[0].shape[0] == seed.image_size, "then nothing is resized"
    np.testing.assert_allclose(pixels[0], ((arrays[0] / 255 - mean) / std).transpose(2, 0, 1), atol=1e-6)
    np.testing.assert_array_equal(seed.encode_pixels(pixels), expected)
    np.testing.assert_array_equal(seed.encode_pixels(pixels[1].astype(np.float64)), expected[1])
    codes, margins = seed.encode_pixels(ArrayTensor(pixels), return_margins=True)
    np.testing.assert_array_equal(codes, expected)
    assert margins.shape == codes.shape
    with pytest.raises(ArgumentError, match=r"\[images, 3, 64, 64\]"):
        seed.encode_pixels(pixels[:, :, :-1])
    with pytest.raises(InputTypeError, match="encode"):
        seed.encode_pixels(np.zeros((3, 64, 64), np.uint8))


@pytest.mark.parametrize("kind", ["causal", "generation"])
def test_embeddings(seed: SeedTokenizer, paths: list[Path], codes: np.ndarray, kind: str) -> None:
    embeddings = seed.embed(paths, kind)
    assert embeddings.dtype == np.float32 and embeddings.ndim == 3 and len(embeddings) == len(paths)
    assert np.isfinite(embeddings).all() and not np.allclose(embeddings[0], embeddings[1])
    assert embeddings.shape[1] == {"causal": 32, "generation": 1}[kind]
    np.testing.assert_allclose(seed.embed(paths[1], kind), embeddings[1], atol=1e-4)
    if kind == "generation":
        np.testing.assert_allclose(seed.embed_codes(codes), embeddings, atol=1e-4)
    assert seed.embed([], kind).shape == (0, *embeddings.shape[1:])


def test_what_is_no_image_is_refused_by_name(seed: SeedTokenizer, tmp_path: Path, arrays: list[np.ndarray]) -> None:
    for wrong in (3, None, [None], [arrays[0], 3.5], object(), {"bytes": 7}, io.StringIO("text")):
        with pytest.raises(InputTypeError):
            seed.encode(wrong)
    with pytest.raises(InputTypeError, match=r"tensor\.cpu\(\)"):
        seed.encode(DistantTensor(arrays[0]))
    for array in (arrays[0].astype(np.float32), arrays[0].transpose(2, 0, 1), np.zeros((2, 2, 2), np.uint8)):
        with pytest.raises(ArgumentError):
            seed.encode(array)
    for empty in (np.zeros((0, 4, 3), np.uint8), {}, {"bytes": None, "path": None}):
        with pytest.raises(ArgumentError):
            seed.encode(empty)
    with pytest.raises(ImageError, match="image 1 "):
        seed.encode([arrays[0], b"no image"])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageError, match="broken.png"):
        seed.encode(broken)
    with pytest.raises(MissingFileError) as missing:
        seed.encode("nowhere.png")
    assert (missing.value.errno, missing.value.filename) == (2, "nowhere.png")


def test_limit_and_preprocessing(paths: list[Path], tmp_path: Path) -> None:
    small = SeedTokenizer.from_pretrained(max_pixels=64 * 64 - 1)
    with pytest.raises(ImageTooLargeError):
        small.encode(paths)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (200, 150, 3), np.uint8)
    bilinear = SeedTokenizer.from_pretrained(preprocess="seed-scripts")
    pixels = [SeedTokenizer.from_pretrained(preprocess="seed").preprocess(noise), bilinear.preprocess(noise)]
    for filter, found in zip((Image.Resampling.BICUBIC, Image.Resampling.BILINEAR), pixels, strict=True):
        resized = np.asarray(Image.fromarray(noise).resize((64, 64), filter))
        np.testing.assert_array_equal(found, bilinear.preprocess(resized))
    assert bilinear.provenance()["preprocess"] == "seed-scripts"
    with pytest.raises(ArgumentError, match="seed-scripts"):
        SeedTokenizer.from_pretrained(preprocess="clip")


def test_aliases_of_the_official_class(seed: SeedTokenizer, paths: list[Path], arrays: list[np.ndarray], expected: np.ndarray) -> None:
    np.testing.assert_array_equal(seed.encode_image(str(paths[0])), expected[:1])
    np.testing.assert_array_equal(seed.encode_image(image_pil=Image.open(paths[1])), expected[1:2])
    np.testing.assert_array_equal(seed.encode_image(image_torch=seed.preprocess(arrays)), expected)
    for wrong in ({}, {"image_path": paths[0], "image_pil": Image.open(paths[0])}):
        with pytest.raises(ArgumentError, match="exactly one"):
            seed.encode_image(**wrong)
    images = seed.decode_image(expected[:2], num_inference_steps=2)
    assert len(images) == 2 and len(seed.decode_image(expected[0], num_inference_steps=2)) == 1
