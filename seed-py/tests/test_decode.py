"""Codes become images: kinds of codes, options, results, progress."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from seed_tokenizer import Images, SeedTokenizer
from seed_tokenizer.errors import ArgumentError, CodesError, InputTypeError, MissingPartError

STEPS = 3


def draw(tokenizer: SeedTokenizer, codes: object, /, **options: object) -> np.ndarray:
    return tokenizer.decode(codes, num_inference_steps=STEPS, output_type="np", **options)


def test_pil_and_numpy_hold_the_same_pixels(seed: SeedTokenizer, codes: np.ndarray) -> None:
    array = draw(seed, codes, seed=7)
    assert array.dtype == np.uint8 and array.shape == (len(codes), 64, 64, 3) and array.std() > 10
    images = seed.decode(codes, num_inference_steps=STEPS, seed=7)
    assert isinstance(images, Images) and all(isinstance(image, Image.Image) for image in images)
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in images]), array)
    html = images._repr_html_()
    assert html.count("<img ") == len(codes) and 'width="64"' in html


def test_one_row_of_codes_is_one_image(seed: SeedTokenizer, codes: np.ndarray) -> None:
    image = seed.decode(codes[1], num_inference_steps=STEPS)
    assert isinstance(image, Image.Image) and image.size == (64, 64)
    assert draw(seed, codes[1]).shape == (64, 64, 3)
    assert draw(seed, codes[:0]).shape[0] == 0 and seed.decode([]) == []


def test_codes_in_whatever_holds_them(seed: SeedTokenizer, codes: np.ndarray) -> None:
    expected = draw(seed, codes[:2])
    line = " ".join(map(str, codes[0]))
    for same in (codes[:2].tolist(), codes[:2].astype(np.int64), codes[:2].astype(np.int32), list(codes[:2])):
        np.testing.assert_array_equal(draw(seed, same), expected)
    np.testing.assert_allclose(draw(seed, line).astype(int), expected[0].astype(int), atol=2)


def test_options_have_an_effect(seed: SeedTokenizer, codes: np.ndarray) -> None:
    plain = draw(seed, codes, seed=1)
    np.testing.assert_array_equal(draw(seed, codes, seed=1), plain)
    for options in (
        {"seed": 2},
        {"seed": 1, "guidance_scale": 1.0},
        {"seed": 1, "scheduler": "ddim"},
        {"seed": 1, "keep_first": 4},
        {"seed": 1, "negative_codes": codes[0]},
        {"seed": 1, "negative_codes": codes[::-1]},
    ):
        assert not np.array_equal(draw(seed, codes, **options), plain), options
    assert draw(seed, codes[0], size=128).shape == (128, 128, 3)


def test_wrong_options_are_named(seed: SeedTokenizer, codes: np.ndarray) -> None:
    for options, name in (
        ({"num_inference_steps": 0}, "steps"),
        ({"scheduler": "heun"}, "scheduler"),
        ({"size": 65}, "size"),
        ({"keep_first": 33}, "keep_first"),
        ({"output_type": "latent"}, "output_type"),
        ({"negative_codes": codes[:3]}, "negative"),
    ):
        with pytest.raises(ArgumentError, match=name):
            seed.decode(codes, **options)


def test_wrong_codes_are_named(seed: SeedTokenizer, codes: np.ndarray) -> None:
    high = codes.astype(np.int64)
    high[1, 5] = seed.codebook_size
    with pytest.raises(CodesError, match="position 5 of image 1"):
        seed.decode(high)
    for wrong in (codes[:, :31], codes[0, :31], np.zeros((2, 0), np.uint16), "1 2 3", "1 2 cat"):
        with pytest.raises(CodesError):
            seed.decode(wrong)
    for wrong in (-high, codes[None], [[1, 2], [3]]):
        with pytest.raises(ArgumentError):
            seed.decode(wrong)
    for wrong in (codes.astype(np.float32), None, [["a"] * 32]):
        with pytest.raises((InputTypeError, ArgumentError)):
            seed.decode(wrong)


def test_progress_and_what_it_raises(seed: SeedTokenizer, codes: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    draw(seed, codes, progress=lambda done, steps: seen.append((done, steps)))
    assert seen[-1][0] == seen[-1][1] and len(seen) >= STEPS and seen == sorted(seen)

    class Enough(Exception):
        pass

    def stop(done: int, steps: int) -> None:
        raise Enough

    with pytest.raises(Enough):
        seed.decode(codes, num_inference_steps=900, progress=stop)


def test_without_a_decoder(bundle: Path, codes: np.ndarray) -> None:
    for file in sorted((bundle / "decoder").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (bundle / "decoder").rmdir()
    seed = SeedTokenizer.from_pretrained(bundle)
    with pytest.raises(MissingPartError, match="decoder"):
        seed.decode(codes)
    assert seed.embed_codes(codes).shape[0] == len(codes)
