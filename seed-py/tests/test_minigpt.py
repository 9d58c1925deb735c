"""MiniGPT-v2: embeddings of the golden files, prompts, boxes; and a whole prompt through a language model, where there is torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from seed_tokenizer import MiniGptVision, minigpt
from seed_tokenizer.errors import ArgumentError, BoxesError, ConfigError, MissingFileError, WeightsError

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "minigpt"
FILES = {"ln_vision": GOLDEN / "blip2.pth", "config": GOLDEN / "config.json"}


def case(name: str) -> np.ndarray:
    """A golden array: float32 of a safetensors file."""
    data = (GOLDEN / "cases.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + length])[name]
    assert entry["dtype"] == "F32"
    start, end = (8 + length + offset for offset in entry["data_offsets"])
    return np.frombuffer(data[start:end], np.float32).reshape(entry["shape"])


@pytest.fixture(scope="module")
def vision() -> MiniGptVision:
    return MiniGptVision.from_pretrained(GOLDEN / "eva_vit_g.pth", GOLDEN / "minigptv2.pth", **FILES)


def test_embeddings_are_the_references(vision: MiniGptVision) -> None:
    expected = case("image_embeddings")[0]
    path = GOLDEN / "image.png"
    one = vision.embed(path)
    assert one.dtype == np.float32 and one.shape == (16, 32)
    assert np.abs(one - expected).max() <= 1e-5 * np.abs(expected).max()
    several = vision.embed([path, Image.open(path), np.asarray(Image.open(path))])
    assert several.shape == (3, 16, 32) and all((row == one).all() for row in several)
    assert vision.embed([]).shape == (0, 16, 32)
    assert (vision.image_size, vision.num_tokens, vision.width) == (32, 16, 32)
    assert (vision.device, vision.dtype) == ("cpu", "float32")
    assert repr(vision) == 'MiniGptVision(device="cpu", dtype="float32")'


def test_every_key_is_accounted_for(vision: MiniGptVision) -> None:
    vit, checkpoint, norm = vision.accounts()
    assert "after the last" in vit["ignored"]["blocks.2.norm1.weight"]
    assert checkpoint["used"] == ["llama_proj.bias", "llama_proj.weight"] and len(checkpoint["ignored"]) == 8
    assert norm["used"] == ["ln_vision.bias", "ln_vision.weight"]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    vit, checkpoint = GOLDEN / "eva_vit_g.pth", GOLDEN / "minigptv2.pth"
    with pytest.raises(WeightsError, match="no place for blocks"):
        MiniGptVision.from_pretrained(checkpoint, vit, **FILES)
    with pytest.raises(WeightsError, match="llama_proj.weight"):
        MiniGptVision.from_pretrained(vit, checkpoint)
    with pytest.raises(MissingFileError):
        MiniGptVision.from_pretrained(tmp_path / "absent.pth", checkpoint, **FILES)
    (tmp_path / "sizes.json").write_text('{"image_size": 32}')
    with pytest.raises(ConfigError, match="patch_size"):
        MiniGptVision.from_pretrained(vit, checkpoint, config=tmp_path / "sizes.json")


def test_prompts() -> None:
    made = minigpt.prompt("what is red?", task="vqa")
    sentence = "Based on the image, respond to this question with a short answer: what is red?"
    assert made == f"<s>[INST] <Img><ImageHere></Img> [vqa] {sentence} [/INST]"
    assert minigpt.prompt("red?", task="vqa", verbatim=True).endswith("</Img> [vqa] red? [/INST]")
    assert minigpt.pieces(made) == [("<s>[INST] <Img>", True), (f"</Img> [vqa] {sentence} [/INST]", False)]
    with pytest.raises(ArgumentError, match="vqa, caption"):
        minigpt.prompt("x", task="segment")
    with pytest.raises(ArgumentError, match="say what to do"):
        minigpt.prompt(" ")


def test_boxes_are_written_and_read() -> None:
    groups = [("a dog", [[64, 96, 352, 384], [384, 4.8, 633.6, 192]]), (None, [[0, 0, 640, 480]])]
    text = minigpt.format_boxes(groups, (640, 480))
    assert text == "<p>a dog</p> {<10><20><55><80>}<delim>{<60><1><99><40>} {<0><0><100><100>}"
    read = minigpt.parse_boxes(text, (640, 480))
    assert [phrase for phrase, _ in read] == ["a dog", None]
    for (_, found), (_, given) in zip(read, groups, strict=True):
        np.testing.assert_allclose(found, given)
    broken = "<p>é</p> {<1><2><3>} {<1><2><3><4>}"
    with pytest.raises(BoxesError, match="character 9.*4 coordinates"):
        minigpt.parse_boxes(broken, (100, 100))
    found, skipped = minigpt.parse_boxes_lenient(broken, (100, 100))
    assert found == [(None, [[1, 2, 3, 4]])]
    assert [part for part, _ in skipped] == ["{<1><2><3>}"] and "4 coordinates" in skipped[0][1]
    with pytest.raises(ArgumentError, match="out of the image"):
        minigpt.format_boxes([("x", [[0, 0, 641, 1]])], (640, 480))


def test_boxes_are_drawn() -> None:
    image = np.zeros((50, 100, 3), np.uint8)
    drawn = minigpt.draw_boxes(image, "<p>x</p> {<10><20><50><80>}")
    assert drawn.size == (100, 50) and not image.any()
    colored = np.asarray(drawn).any(axis=2)
    assert colored[10, 10:51].all() and colored[10:41, 50].all() and not colored[13:38, 13:48].any()
    with pytest.raises(BoxesError):
        minigpt.draw_boxes(image, "{<1>} {<1><1><9><9>}")
    assert np.asarray(minigpt.draw_boxes(image, "{<1>} {<1><1><9><9>}", lenient=True)).any()
    with pytest.raises(ArgumentError, match="one image"):
        minigpt.draw_boxes([image, image], "{<1><1><9><9>}")


def test_lora_of_both_styles_merges_as_pytorch_does() -> None:
    target = "model.layers.1.self_attn.q_proj.weight"
    for file in ("minigptv2.pth", "minigptv2-default.pth"):
        lora = minigpt.lora(GOLDEN / file)
        assert len(lora) == 4
        a, b = lora[target]
        assert (a.shape, b.shape) == ((4, 32), (32, 4))
        np.testing.assert_allclose(case("q_proj") + 16 / 4 * b @ a, case("q_proj_merged"), rtol=1e-5, atol=1e-5)
    with pytest.raises(WeightsError, match="no place for"):
        minigpt.lora(GOLDEN / "eva_vit_g.pth")


def tokenize(text: str, bos: bool) -> list[int]:
    """A letter an id, with 1 for the beginning."""
    return [1] * bos + [2 + ord(letter) % 90 for letter in text]


def test_a_prompt_is_put_together(vision: MiniGptVision) -> None:
    words = np.random.default_rng(0).normal(size=(92, 32)).astype(np.float32)
    image = vision.embed(GOLDEN / "image.png")
    text = minigpt.prompt("cat", task="detection")
    made = minigpt.inputs_embeds(text, [image], tokenize, lambda ids: words[ids])
    before, after = (words[tokenize(piece, bos)] for piece, bos in minigpt.pieces(text))
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, np.concatenate([before, image, after])[None])
    assert (before[0] == words[1]).all() and not (after[0] == words[1]).all()
    two = minigpt.inputs_embeds("<ImageHere>a<ImageHere>", [image, image + 1], tokenize, lambda ids: words[ids])
    np.testing.assert_array_equal(two[0], np.concatenate([words[[1]], image, words[tokenize("a", False)], image + 1]))
    for images, message in (([], "1 places"), ([image] * 2, "1 places"), ([image[:, :5]], "tokens, 32"), ([image[0]], "tokens, 32")):
        with pytest.raises(ArgumentError, match=message):
            minigpt.inputs_embeds(text, images, tokenize, lambda ids: words[ids])
    with pytest.raises(ArgumentError, match="no words"):
        minigpt.inputs_embeds("<ImageHere>", [image], lambda *_: [], lambda ids: words[ids])


def llama() -> Any:
    """A tiny LLaMA of transformers with random weights, and torch."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=92, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    return torch, transformers.LlamaForCausalLM(config).eval()


def test_a_language_model_runs_the_whole_prompt(vision: MiniGptVision) -> None:
    torch, model = llama()
    text = minigpt.prompt("what is it?", task="vqa")
    embed = lambda ids: model.get_input_embeddings()(torch.tensor(ids))  # noqa: E731
    with torch.no_grad():
        made = minigpt.inputs_embeds(text, [vision.embed(GOLDEN / "image.png")], tokenize, embed)
        length = sum(len(tokenize(piece, bos)) for piece, bos in minigpt.pieces(text)) + 16
        assert made.shape == (1, length, 32) and made.dtype == torch.float32
        answer = model.generate(inputs_embeds=made, attention_mask=torch.ones(1, length), max_new_tokens=5, min_new_tokens=5, do_sample=False)
        assert answer.shape == (1, 5)
        # The image is seen: another one gives other numbers.
        other = minigpt.inputs_embeds(text, [vision.embed(np.zeros((9, 9, 3), np.uint8))], tokenize, embed)
        assert not torch.allclose(model(inputs_embeds=made).logits[0, -1], model(inputs_embeds=other).logits[0, -1])
        # Where the image is made of words, the prompt is what the model computes for those words.
        image = embed(tokenize("an image", False))
        as_embeds = model(inputs_embeds=minigpt.inputs_embeds(text, [image.numpy()], tokenize, embed)).logits
        before, after = (tokenize(piece, bos) for piece, bos in minigpt.pieces(text))
        as_ids = model(input_ids=torch.tensor([before + tokenize("an image", False) + after])).logits
        torch.testing.assert_close(as_embeds, as_ids)
        half = minigpt.inputs_embeds(text, [image.numpy()], tokenize, lambda ids: embed(ids).half())
        assert half.dtype == torch.float16


def test_merged_lora_is_what_peft_computes() -> None:
    """The checkpoint's own LoRA, in a model of transformers under peft and merged by hand."""
    torch, model = llama()
    peft = pytest.importorskip("peft")
    ids = torch.tensor([tokenize("a prompt", True)])
    lora = minigpt.lora(GOLDEN / "minigptv2.pth")
    with torch.no_grad():
        weights = dict(model.named_parameters())
        plain = model(input_ids=ids).logits
        for target, (a, b) in lora.items():
            weights[target] += 16 / 4 * torch.from_numpy(b) @ torch.from_numpy(a)
        merged = model(input_ids=ids).logits
        for target, (a, b) in lora.items():
            weights[target] -= 16 / 4 * torch.from_numpy(b) @ torch.from_numpy(a)
        config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        adapted = peft.get_peft_model(model, config).eval()
        saved = torch.load(GOLDEN / "minigptv2-default.pth", weights_only=True)["model"]
        own = {name.removeprefix("llama_model."): value for name, value in saved.items() if "lora" in name}
        assert not adapted.load_state_dict(own, strict=False).unexpected_keys
        torch.testing.assert_close(adapted(input_ids=ids).logits, merged, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(plain, merged, atol=1e-2)
