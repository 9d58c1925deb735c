"""train, convert and evaluate."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from seed_tokenizer import Report, SeedTokenizer, convert, train
from seed_tokenizer.errors import (
    ArgumentError,
    ConfigError,
    DivergedError,
    FolderInUseError,
    MissingFileError,
    MissingPartError,
    PickleRefusedError,
    WeightsError,
    WriteError,
)

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"

SIZES = """
name = "least"
seed = 3
[model]
image_size = 16
patch_size = 8
vit_width = 8
vit_depth = 1
vit_heads = 2
vit_mlp = 8
qformer_width = 8
qformer_depth = 1
qformer_heads = 2
qformer_mlp = 8
cross_attention_every = 1
num_queries = 32
codebook_size = 16
codebook_dim = 4
decoder_depth = 1
decoder_heads = 2
head = "mlp"
generation_dim = 8
reverse_queries = 1
reverse_depth = 1
recon_semantic = true
[contrast]
embed_dim = 8
width = 8
depth = 1
heads = 2
context = 44
[diffusion]
vae_channels = [4, 8]
vae_layers = 1
latent_channels = 4
unet_channels = [8, 8]
unet_layers = 1
head_dim = 4
vae_groups = 2
unet_groups = 2
context = 4
pool = 8
steps = 2
guidance = 2.0
"""


def write_recipe(path: Path, *, steps: int = 2, weight_decay: str = "0.0") -> Path:
    """The smallest recipe, with so many steps of its first stage."""
    plan = "batch = 4\nwarmup = 1\nlearning_rate = 1e-3\ncheckpoint_every = 1000000\n"
    stages = {"vision": steps, "stage1": 1, "stage2": 1, "vae": 1, "decoder": 1}
    plans = (f"[{name}]\nsteps = {count}\nweight_decay = {weight_decay}\n{plan}" for name, count in stages.items())
    path.write_text(SIZES + "".join(plans))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, object]]]:
    """A bundle of the smallest recipe, and what its steps told."""
    folder, seen = tmp_path_factory.mktemp("train"), []
    bundle = train(write_recipe(folder / "least.toml"), out=folder / "run", progress=seen.append)
    return Path(bundle), seen


def test_a_recipe_becomes_a_model(trained: tuple[Path, list[dict[str, object]]], tmp_path: Path) -> None:
    bundle, seen = trained
    assert [step["stage"] for step in seen] == ["vision", "vision", "stage1", "stage2", "vae", "decoder"]
    assert all(np.isfinite(step["loss"]) and step["step"] <= step["steps"] for step in seen)
    seed = SeedTokenizer.from_pretrained(bundle)
    codes = seed.encode(np.zeros((2, 16, 16, 3), np.uint8))
    assert codes.shape == (2, 32) and seed.decode(codes, output_type="np").shape == (2, 16, 16, 3)


def test_a_run_that_is_there_is_not_begun_anew(trained: tuple[Path, list[dict[str, object]]]) -> None:
    run = trained[0].parent
    with pytest.raises(FolderInUseError, match="resume=True"):
        train(run.parent / "least.toml", out=run)
    assert Path(train(run.parent / "least.toml", out=run, resume=True)) == trained[0]


def test_a_stage_alone(tmp_path: Path) -> None:
    made = train(write_recipe(tmp_path / "least.toml"), out=tmp_path / "run", until="vae")
    assert Path(made) == tmp_path / "run" / "vae"


def test_keys_of_a_recipe_are_overridden(tmp_path: Path) -> None:
    recipe, seen = write_recipe(tmp_path / "least.toml"), []
    changed = {"name": "named", "vae.steps": 3, "vae.learning_rate": 0.002, "diffusion.vae_channels": [4, 4]}
    train(recipe, out=tmp_path / "run", until="vae", overrides=changed, progress=seen.append)
    assert [step["steps"] for step in seen] == [3, 3, 3]
    written = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (written["name"], written["diffusion"]["vae_channels"]) == ("named", [4, 4])
    assert written["vae"]["learning_rate"] == 0.002
    for wrong, reason in [({"vae.stebs": 3}, "did you mean steps"), ({"name.steps": 3}, "name is a value")]:
        with pytest.raises(ConfigError, match=reason):
            train(recipe, out=tmp_path / "other", overrides=wrong)
    for wrong in ({3: 4}, {"vae.steps": None}, {"vae.steps": [{}]}):
        with pytest.raises(ArgumentError, match="overrides"):
            train(recipe, out=tmp_path / "other", overrides=wrong)


def test_what_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "least.toml")
    with pytest.raises(ArgumentError, match="stage2"):
        train(recipe, out=tmp_path / "run", until="stage3")
    with pytest.raises(ArgumentError, match="autoencoder"):
        train(recipe, out=tmp_path / "run", decoder="a", autoencoder="b")
    with pytest.raises(MissingFileError):
        train(tmp_path / "nowhere.toml", out=tmp_path / "run")
    with pytest.raises(WriteError) as raised:
        train(recipe, out=recipe / "below a file")
    assert isinstance(raised.value, OSError) and raised.value.filename
    recipe.write_text(recipe.read_text().replace("patch_size = 8", "patch_size = 7"))
    with pytest.raises(ConfigError):
        train(recipe, out=tmp_path / "run")


def test_training_that_diverges(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "wild.toml", steps=50, weight_decay="1e30")
    with pytest.raises(DivergedError, match="learning rate") as raised:
        train(recipe, out=tmp_path / "run")
    assert isinstance(raised.value, FloatingPointError)


PROGRAM = """
import sys
from seed_tokenizer import train
try:
    train(sys.argv[1], out=sys.argv[2], progress=lambda step: print(step["step"], flush=True))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_leaves_a_checkpoint_to_resume_from(tmp_path: Path) -> None:
    recipe, out = write_recipe(tmp_path / "long.toml", steps=1_000_000), tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, recipe, out], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().endswith("interrupted\n")
    assert (out / "vision" / "checkpoint.bin").is_file()
    seen: list[int] = []

    class Enough(Exception):
        pass

    def stop(step: dict[str, int]) -> None:
        seen.append(step["step"])
        raise Enough

    with pytest.raises(Enough):
        train(recipe, out=out, resume=True, progress=stop)
    assert seen[0] > 1, "it went on"


def tensor(path: Path, name: str) -> np.ndarray:
    """A tensor of a safetensors file."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    entry = json.loads(data[8:end])[name]
    begin, stop = entry["data_offsets"]
    dtype = {"F32": np.float32, "I64": np.int64, "I32": np.int32}[entry["dtype"]]
    return np.frombuffer(data[end + begin : end + stop], dtype).reshape(entry["shape"])


def test_official_files_become_a_bundle_that_encodes_as_the_reference(tmp_path: Path) -> None:
    case = GOLDEN / "seed2-mlp"
    options = {"vit": case / "eva_vit_g.pth", "config": case / "config.json", "dtype": "float32"}
    report = convert(case / "seed_quantizer.pt", tmp_path / "seed-2", decoder=GOLDEN / "unclip", **options)
    assert isinstance(report, Report) and report["dtype"] == "f32"
    assert "<table>" in report._repr_html_() and all(file["used"] for file in report["files"])
    seed = SeedTokenizer.from_pretrained(tmp_path / "seed-2")
    assert seed.name == "seed-2"
    codes = seed.encode_pixels(tensor(case / "cases.safetensors", "pixels"))
    np.testing.assert_array_equal(codes, tensor(case / "cases.safetensors", "codes").reshape(codes.shape))
    with pytest.raises(MissingPartError, match="caption"):
        seed.evaluate("retrieval", count=2)
    with pytest.raises(WeightsError):
        convert(case / "seed_quantizer.pt", tmp_path / "half", config=case / "config.json")
    with pytest.raises(FolderInUseError):
        convert(case / "seed_quantizer.pt", tmp_path / "seed-2", **options)
    (tmp_path / "sizes.json").write_text("{}")
    with pytest.raises(ConfigError):
        convert(case / "seed_quantizer.pt", tmp_path / "other", config=tmp_path / "sizes.json")


def test_a_pickle_that_could_run_code_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pt"
    # The legacy format: magic number, version, system, then an object that is made by a call of os.system.
    numbers = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00."
    bad.write_bytes(numbers + b"\x80\x02cos\nsystem\n(U\x04trueo.")
    with pytest.raises(PickleRefusedError, match="could run code"):
        convert(bad, tmp_path / "out")


@pytest.mark.parametrize(("what", "number"), [("retrieval", "images"), ("codes", "used"), ("reconstruction", "psnr")])
def test_evaluations(seed: SeedTokenizer, what: str, number: str) -> None:
    options = {"num_inference_steps": 1, "progress": lambda done, all: None} if what == "reconstruction" else {}
    report = seed.evaluate(what, count=8, scene_seed=5, **options)
    assert report[number] > 0 and report["tokenizer"] == seed.provenance() and report["scene_seed"] == 5
    assert re.search(r"<th>\w+</th>", report._repr_html_())


def test_evaluations_that_are_not(seed: SeedTokenizer) -> None:
    for wrong in ({"what": "speed"}, {"count": 0}):
        with pytest.raises(ArgumentError):
            seed.evaluate(**wrong)
