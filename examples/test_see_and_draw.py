"""The example with a LLaMA of random weights: make test-llm."""

import json
import random
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from tokenizers import Tokenizer, models, pre_tokenizers

EXAMPLES = Path(__file__).parent
sys.path.insert(0, str(EXAMPLES))

from see_and_draw import IGNORED, Images, SeesAndDraws, WholeImages, read_shape, read_tokens, sequences, train

CODEBOOK, TOKENS = 1024, 32


@pytest.fixture(scope="module")
def captions() -> list[str]:
    return [json.loads(line)["text"] for line in (EXAMPLES / "metadata.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", params=[False, True], ids=["two embeddings", "tied embeddings"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, captions: list[str]) -> Path:
    """A folder as a language model comes in: weights, configuration, tokenizer."""
    folder = tmp_path_factory.mktemp("llama")
    words = sorted({word for caption in captions for word in caption.replace(",", " ,").split()})
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=request.param,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, captions: list[str]) -> Path:
    """A folder as `seed tokenize --format jsonl` writes it, and a row without a caption."""
    folder = tmp_path_factory.mktemp("tokens")
    codes = [[random.Random(i).randrange(CODEBOOK) for _ in range(TOKENS)] for i in range(len(captions))]
    rows = [{"key": str(i), "codes": c, "caption": t} for i, (c, t) in enumerate(zip(codes, captions, strict=True))]
    rows.append({"key": "nothing is said of it", "codes": codes[0], "caption": None})
    (folder / "00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = {"shape": {"codebook_size": CODEBOOK, "tokens": TOKENS}}
    (folder / "__seed__").mkdir()
    (folder / "__seed__" / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_it_learns_and_its_images_are_whole(base: Path, tokens: Path, captions: list[str], tmp_path: Path) -> None:
    options = {"rank": 4, "steps": 60, "batch_size": 8, "learning_rate": 1e-2}
    losses = train(str(base), tokens, tmp_path, **options)
    assert len(losses) == 60
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5]), losses

    model = SeesAndDraws.load(str(base), tmp_path)
    for caption in captions[:3]:
        for temperature in (0.0, 1.0):
            codes = model.draw(caption, temperature)
            assert len(codes) == TOKENS
            assert all(0 <= code < CODEBOOK for code in codes)
    assert model.draw(captions[0], 1.0, seed=1) == model.draw(captions[0], 1.0, seed=1)
    assert model.draw(captions[0], 1.0, seed=1) != model.draw(captions[0], 1.0, seed=2)
    said = model.caption(next(read_tokens(tokens))[1])
    assert said.startswith("a ") and "img" not in said


def test_adapters_come_back_as_they_were_trained(base: Path, tokens: Path, tmp_path: Path) -> None:
    """A loss that training reached is reached again by what was written."""
    options = {"rank": 4, "steps": 30, "batch_size": 8, "learning_rate": 1e-2}
    losses = train(str(base), tokens, tmp_path, **options)
    model = SeesAndDraws.load(str(base), tmp_path)
    caption, codes = next(read_tokens(tokens))
    both = []
    for ids, labels in sequences(model.tokenizer, model.images, caption, codes):
        with torch.no_grad():
            both.append(model.model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item())
    assert sum(both) / 2 < (losses[0] + losses[-1]) / 2, (both, losses)


def test_the_loss_counts_what_is_to_be_predicted(base: Path, captions: list[str]) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    images = Images.add(tokenizer, CODEBOOK, TOKENS)
    codes = list(range(TOKENS))
    (seen, seen_labels), (drawn, drawn_labels) = sequences(tokenizer, images, captions[0], codes)
    block = images.block(codes)
    assert seen[1 : TOKENS + 3] == block and drawn[-TOKENS - 3 : -1] == block
    assert images.codes(seen) == images.codes(drawn) == codes
    assert seen_labels[: TOKENS + 3] == [IGNORED] * (TOKENS + 3) and seen_labels[TOKENS + 3 :] == seen[TOKENS + 3 :]
    words = len(drawn) - TOKENS - 3
    assert drawn_labels == [IGNORED] * words + drawn[words:]
    assert tokenizer.convert_ids_to_tokens(block)[:2] == ["<img>", "<img_00000>"]
    with pytest.raises(ValueError, match="have|has"):
        Images.add(tokenizer, CODEBOOK, TOKENS)


def test_whole_images() -> None:
    images = Images(codebook_size=10, tokens=3, offset=20, begin_id=30, end_id=31)
    codes = set(range(20, 30))

    def allowed(ids: list[int], may_begin: bool = True) -> set[int]:
        scores = WholeImages(images, may_begin)(torch.tensor([ids]), torch.zeros(1, 35))
        return set(torch.isfinite(scores[0]).nonzero().flatten().tolist())

    words = set(range(20)) | {32, 33, 34}
    assert allowed([1, 2]) == words | {30}
    assert allowed([1, 2], may_begin=False) == words
    assert allowed([1, 30]) == allowed([1, 30, 25, 26]) == codes
    assert allowed([1, 30, 25, 26, 27]) == {31}
    assert allowed([1, 30, 25, 26, 27, 31]) == words | {30}
    assert allowed([30, 25, 26, 27, 31, 30, 20]) == codes
    for block in ([1, 2], [1, 2, 10], [1, 2, -1]):
        with pytest.raises(ValueError, match="3 codes below 10"):
            images.block(block)
    with pytest.raises(ValueError, match="does not end"):
        images.codes([30, 20, 21, 22, 23])


def test_parquet_is_read_like_lines(tokens: Path, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = list(map(json.loads, (tokens / "00000.jsonl").read_text().splitlines()))
    codes = pa.array([row["codes"] for row in rows], pa.list_(pa.uint16(), TOKENS))
    table = {"key": [row["key"] for row in rows], "codes": codes, "caption": [row["caption"] for row in rows]}
    pq.write_table(pa.table(table), tmp_path / "00000.parquet")
    assert list(read_tokens(tmp_path)) == list(read_tokens(tokens))
    assert read_shape(tokens) == (CODEBOOK, TOKENS)


def test_a_folder_without_tokens_is_named(tmp_path: Path) -> None:
    for read in (read_shape, read_tokens):
        with pytest.raises(FileNotFoundError, match="seed tokenize"):
            list(read(tmp_path))
