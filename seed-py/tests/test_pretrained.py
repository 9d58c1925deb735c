"""Where models come from and go to: built in, folders, a hub, pickles."""

import copy
import json
import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub import COMMIT, Hub, serve
from seed_tokenizer import SeedTokenizer
from seed_tokenizer.errors import (
    AccessError,
    ArgumentError,
    BundleError,
    ConfigError,
    DamagedError,
    DeviceError,
    HubError,
    MissingFileError,
    NetworkError,
    NotCachedError,
    NotOnHubError,
    WeightsError,
)

REPOSITORY = "somebody/tiny-seed"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Path) -> Iterator[Hub]:
    """A hub with the built-in model as a repository, and a cache of its own."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.publish(REPOSITORY, bundle)
        yield hub


def test_what_it_says_of_itself(seed: SeedTokenizer) -> None:
    assert (seed.name, seed.num_tokens, seed.image_size, seed.codebook_size) == ("scenes-tiny", 32, 64, 4096)
    assert (seed.device, seed.dtype) == ("cpu", "float32")
    assert repr(seed) == 'SeedTokenizer("bundled", device="cpu", dtype="float32")'
    html = seed._repr_html_()
    assert "<table>" in html and "scenes-tiny" in html and "32 of 4096" in html
    assert seed.config["model"]["num_queries"] == 32
    assert set(seed.provenance()) == {"model", "weights", "preprocess", "device", "dtype", "version"}


def test_a_saved_model_is_the_same(seed: SeedTokenizer, bundle: Path, paths: list[Path], codes: np.ndarray) -> None:
    for place in (bundle, str(bundle)):
        again = SeedTokenizer.from_pretrained(place)
        np.testing.assert_array_equal(again.encode(paths), codes)
        assert again.provenance() == seed.provenance()
    np.testing.assert_array_equal(
        again.decode(codes[0], num_inference_steps=2, output_type="np"),
        seed.decode(codes[0], num_inference_steps=2, output_type="np"),
    )
    again.save_pretrained(bundle)  # onto itself
    assert SeedTokenizer.from_pretrained(bundle).name == "scenes-tiny"


def test_devices_and_dtypes(paths: list[Path], codes: np.ndarray) -> None:
    for dtype in ("float16", "f16", np.float16, np.dtype("float16"), "torch.float16"):
        half = SeedTokenizer.from_pretrained(dtype=dtype)
        assert half.dtype == "float16"
    np.testing.assert_array_equal(half.encode(paths), codes)
    with pytest.raises(ArgumentError, match="float32, float16, bfloat16 and int8"):
        SeedTokenizer.from_pretrained(dtype="int4")
    eight = SeedTokenizer.from_pretrained(dtype="int8")
    assert eight.dtype == "int8"
    assert np.mean(eight.encode(paths) == codes) > 0.8
    for device in ("cuda:99", "wgpu:99", "tpu"):
        with pytest.raises(DeviceError):
            SeedTokenizer.from_pretrained(device=device)


def test_folders_that_are_no_bundles(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError) as missing:
        SeedTokenizer.from_pretrained(tmp_path / "nowhere")
    assert missing.value.filename == str(tmp_path / "nowhere")
    with pytest.raises(MissingFileError):
        SeedTokenizer.from_pretrained("./bundled")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"config\.json"):
        SeedTokenizer.from_pretrained(tmp_path / "empty")
    config = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps({**config, "colour": "red"}))
    with pytest.raises(ConfigError, match="colour"):
        SeedTokenizer.from_pretrained(bundle)
    config["model"]["codebook_size"] *= 2
    (bundle / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="shape"):
        SeedTokenizer.from_pretrained(bundle)
    (bundle / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(WeightsError):
        SeedTokenizer.from_pretrained(bundle)


def test_pickles_hold_name_and_options(seed: SeedTokenizer, bundle: Path, paths: list[Path], codes: np.ndarray) -> None:
    data = pickle.dumps(seed)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).encode(paths), codes)
    folder = SeedTokenizer.from_pretrained(bundle, dtype="bfloat16", preprocess="seed-scripts", max_pixels=5000)
    for again in (pickle.loads(pickle.dumps(folder)), copy.deepcopy(folder)):
        assert again.provenance() == folder.provenance() and str(bundle) in repr(again)


def test_other_processes_get_it_by_pickle(seed: SeedTokenizer, paths: list[Path], codes: np.ndarray) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(seed.encode, ([str(path) for path in paths],)), codes)


def test_from_a_hub(hub: Hub, tmp_path: Path, paths: list[Path], codes: np.ndarray) -> None:
    seen: list[tuple[str, int, int | None]] = []
    cache = tmp_path / "cache"
    options = {"cache_dir": cache, "token": "hf_secret"}
    seed = SeedTokenizer.from_pretrained(REPOSITORY, progress=lambda *told: seen.append(told), **options)
    np.testing.assert_array_equal(seed.encode(paths), codes)
    assert {"config.json", "model.safetensors"} <= {file for file, _, _ in seen}
    assert hub.tokens == {"Bearer hf_secret"}
    assert (cache / "models--somebody--tiny-seed" / "snapshots" / COMMIT / "config.json").is_file()

    hub.asked.clear()
    offline = SeedTokenizer.from_pretrained(REPOSITORY, local_files_only=True, **options)
    np.testing.assert_array_equal(offline.encode(paths), codes)
    assert hub.asked == []

    # The pickle names the commit, so that every process has the same weights, and not the token.
    data = pickle.dumps(seed)
    assert b"hf_secret" not in data and COMMIT.encode() in data
    hub.tokens.clear()
    assert pickle.loads(data).provenance() == seed.provenance()
    assert hub.tokens <= {None}

    seed.save_pretrained(tmp_path / "copy")
    assert SeedTokenizer.from_pretrained(tmp_path / "copy").provenance() == seed.provenance()


def test_tokens(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    for token, sent in ((None, "Bearer hf_environment"), (True, "Bearer hf_environment"), (False, None), ("hf_x", "Bearer hf_x")):
        hub.tokens.clear()
        SeedTokenizer.from_pretrained(REPOSITORY, token=token)
        assert hub.tokens == {sent}


def test_what_a_hub_refuses(hub: Hub, tmp_path: Path, bundle: Path) -> None:
    def fails(error: type[HubError], name: str = REPOSITORY, **options: object) -> str:
        with pytest.raises(error) as raised:
            SeedTokenizer.from_pretrained(name, **options)
        return str(raised.value)

    assert "no/such" in fails(NotOnHubError, "no/such")
    fails(NotCachedError, local_files_only=True)
    hub.publish("official/files", bundle / "decoder")
    with pytest.raises(BundleError, match=r"seed_tokenizer\.convert"):
        SeedTokenizer.from_pretrained("official/files")
    hub.status = 401
    fails(AccessError)
    hub.status, hub.error_code = 403, "GatedRepo"
    assert "licence" in fails(AccessError)
    hub.status, hub.error_code = 418, ""
    assert "418" in fails(HubError)
    hub.status, hub.is_hub = 200, False
    fails(HubError)
    hub.is_hub, hub.damages = True, True
    fails(DamagedError)
    for wrong in ("a--b/c", "a b/c"):
        with pytest.raises(ArgumentError):
            SeedTokenizer.from_pretrained(wrong)


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with serve() as hub:
        endpoint = hub.endpoint
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(NetworkError) as raised:
        SeedTokenizer.from_pretrained(REPOSITORY)
    assert isinstance(raised.value, ConnectionError)
