"""Images inside language models: text and ids, replies, packing, masks."""

import inspect
import pickle
from typing import Any

import numpy as np
import pytest
from seed_tokenizer.errors import ArgumentError, CodesError, InputTypeError
from seed_tokenizer.llm import (
    Constraint,
    IdParser,
    Image,
    LogitsProcessor,
    Skipped,
    Template,
    Text,
    TextParser,
    VllmLogitsProcessor,
    pack,
)

# Two codes an image, 4 rows: ids 10 to 13, marks 14 and 15.
SMALL = Template(4, 2, 10)


def plain(pieces: list[Any]) -> list[Any]:
    """Pieces as tuples and lists, which compare."""
    return [
        ("image", piece.codes.tolist(), piece.tolerated)
        if isinstance(piece, Image)
        else (type(piece).__name__, *[np.asarray(v).tolist() for v in vars(piece).values()])
        for piece in pieces
    ]


def test_codes_to_text_and_ids_and_back(codes: np.ndarray) -> None:
    template = Template()
    text, ids = template.codes_to_text(codes), template.codes_to_ids(codes)
    assert text == "".join("<img>" + "".join(f"<img_{code:05}>" for code in row) + "</img>" for row in codes)
    expected = [id for row in codes for id in (40192, *(32000 + code for code in row.tolist()), 40193)]
    assert ids.dtype == np.int64 and ids.tolist() == expected
    np.testing.assert_array_equal(template.text_to_codes(text), codes)
    np.testing.assert_array_equal(template.ids_to_codes(ids), codes)
    assert template.codes_to_text(codes[0]) == text[: len(text) // len(codes)]
    assert template.block_length == 34 and template.last_id == 40193
    assert SMALL.vocabulary()[3:] == [(13, "<img_00003>", False), (14, "<img>", True), (15, "</img>", True)]


def test_a_template_travels(codes: np.ndarray) -> None:
    template = Template(4096, 32, 5, begin="[", end="]", token="({})", begin_id=2)
    again = pickle.loads(pickle.dumps(template))
    assert again.config == template.config and again.config["end_id"] == 3
    assert again.codes_to_text(codes) == template.codes_to_text(codes)
    assert eval(repr(template)).config == template.config
    constraint = pickle.loads(pickle.dumps(Constraint(SMALL, "image", [2])))
    assert constraint.next([], []) == "begin"


def test_what_is_wrong_is_said(codes: np.ndarray) -> None:
    for arguments, reason in (
        ({"begin": "<img_00001>"}, "beginning of a code"),
        ({"begin_id": 32000}, "those of codes"),
        ({"token": "<img>"}, "one place for the number"),
        ({"tokens": 0}, "from 1 to 65536 codes"),
    ):
        with pytest.raises(ArgumentError, match=reason):
            Template(**arguments)
    rows = int(codes[0].max())  # one too few for the largest code
    with pytest.raises(CodesError, match=f"code {rows} at position {codes[0].argmax()} of image 0"):
        Template(rows).codes_to_text(codes)
    with pytest.raises(CodesError, match="it has 1 codes where 2 are needed"):
        SMALL.text_to_codes("<img><img_00001></img>")
    with pytest.raises(CodesError, match="after 2 of 2 codes comes the end"):
        SMALL.ids_to_codes([14, 10, 11])
    with pytest.raises(ArgumentError, match="ids = -1"):
        SMALL.ids_to_codes([14, -1])
    with pytest.raises(InputTypeError, match="whole numbers"):
        SMALL.ids_to_codes([0.5])


def test_replies_of_text() -> None:
    parser = TextParser(SMALL)
    pieces: list[Any] = []
    for letter in "a <b> <img><img_00003><img_00001></img>!<im":
        pieces += parser.push(letter)
    pieces += parser.finish()
    texts = [piece.text for piece in pieces if isinstance(piece, Text)]
    assert "".join(texts) == "a <b> !<im"
    images = [piece for piece in pieces if isinstance(piece, Image)]
    assert [image.codes.tolist() for image in images] == [[3, 1]] and images[0].codes.dtype == np.uint16

    with pytest.raises(CodesError, match="image 1, at byte 34, is broken: it has no end mark") as raised:
        parser.reset()
        parser.push("a<img><img_00003><img_00001></img><img>b")
    assert plain(raised.value.pieces) == [("Text", "a"), ("image", [3, 1], 0)]
    with pytest.raises(CodesError):
        parser.push("c")
    parser.reset()
    assert plain(parser.push("c")) == [("Text", "c")]

    lenient = TextParser(SMALL, strict=False)
    assert plain(lenient.push("<img> <img_3><img_00001></img><img><img_00003></img>b")) == [
        ("image", [3, 1], 2),
        ("Skipped", "<img><img_00003></img>", "it has 1 codes where 2 are needed"),
        ("Text", "b"),
    ]


def test_replies_of_ids() -> None:
    parser = IdParser(SMALL, lambda ids: " ".join(map(str, ids)))
    assert plain(parser.push(np.array([5, 6, 14, 13]))) == [("Text", "5 6")]
    assert plain(parser.push([11, 15, 7])) == [("image", [3, 1], 0), ("Text", "7")]
    assert parser.finish() == []
    lenient = IdParser(SMALL, strict=False)
    pieces = lenient.push([5, 15])
    assert isinstance(pieces[1], Skipped) and pieces[1].what.tolist() == [15] and "</img>" in pieces[1].reason


def test_documents_are_packed() -> None:
    documents = [
        [{"ids": [5, 6], "loss": False}, {"codes": [[0, 3], [1, 1]]}, {"ids": [7], "loss": True}],
        [{"codes": [2, 2], "loss": False}],
    ]
    first, second = pack(documents, SMALL, 14, bos_id=1, eos_id=2, open=1)
    assert first["input_ids"].tolist() == [1, 5, 6, 14, 10, 13, 15, 14, 11, 11, 15, 7, 2, 0]
    assert first["labels"].tolist() == [-100, -100, -100, 14, 10, 13, 15, 14, 11, 11, 15, 7, 2, -100]
    assert first["position_ids"].tolist() == [*range(13), 0]
    assert first["cu_seqlens"].tolist() == [0, 13, 14] and first["parts"] == [(0, 0, 13)]
    assert second["input_ids"].tolist() == [1, 14, 12, 12, 15, 2, *[0] * 8]
    assert second["labels"].tolist() == [-100] * 14
    types = {name: first[name].dtype for name in ("input_ids", "labels", "position_ids", "cu_seqlens")}
    assert types == {"input_ids": "int64", "labels": "int64", "position_ids": "int64", "cu_seqlens": "int32"}
    with pytest.raises(ArgumentError, match="an image is 4 ids"):
        next(pack(documents, SMALL, 3))
    with pytest.raises(ArgumentError, match="give images as codes"):
        next(pack([[{"ids": [14]}]], SMALL, 8))
    with pytest.raises(ArgumentError, match="a segment has"):
        next(pack([[{"text": "cat"}]], SMALL, 8))


def test_constraint() -> None:
    constraint = Constraint(SMALL, "image", [2])
    for reply, next in (([], "begin"), ([14], "code"), ([14, 10], "code"), ([14, 10, 10], "end"), ([14, 10, 10, 15], "stop")):
        assert constraint.next([5], reply) == next
    assert np.flatnonzero(constraint.mask("code", 20)).tolist() == [10, 11, 12, 13]
    assert np.flatnonzero(constraint.mask("stop", 20)).tolist() == [2]
    for make, reason in (
        (lambda: Constraint(SMALL, "song"), "replies are image"),
        (lambda: Constraint(SMALL, "image"), "that ends it"),
        (lambda: constraint.mask("code", 15), "need 16 rows"),
        (lambda: constraint.mask("codes", 20), "text, begin, code"),
    ):
        with pytest.raises(ArgumentError, match=reason):
            make()


def sample(processor: LogitsProcessor, prompts: list[list[int]], steps: int, stop: int = 2) -> list[list[int]]:
    """What is drawn from random logits, as transformers' generate would."""
    draws = np.random.default_rng(0)
    ids = np.array(prompts)
    for _ in range(steps):
        scores = draws.normal(size=(len(ids), 16)).astype(np.float32)
        masked = processor(ids, scores)
        assert masked.dtype == np.float32 and masked.shape == scores.shape
        kept = np.isfinite(masked)
        np.testing.assert_array_equal(masked[kept], scores[kept])
        ids = np.hstack([ids, masked.argmax(1, keepdims=True)])
    return ids[:, len(prompts[0]) :].tolist()


def test_sampling_is_held_to_whole_images() -> None:
    for row in sample(LogitsProcessor(SMALL), [[1, 5, 5], [14, 10, 11], [1, 5, 14], [15, 14, 10]], 200):
        assert 14 in row
    held = LogitsProcessor(SMALL, "interleaved")
    replies = sample(held, [[1, 5]] * 8, 60)
    for row in replies:
        parser = IdParser(SMALL)
        parser.push(row)
    one = LogitsProcessor(SMALL, "image", [2])
    for _ in range(2):  # another reply begins where the ids get fewer
        for row in sample(one, [[14, 10, 13, 15]] * 4, 6):
            assert SMALL.ids_to_codes(row[:4]).shape == (1, 2) and row[4:] == [2, 2]
    assert sample(LogitsProcessor(SMALL, "image", [2], prompt_length=2), [[1, 14]], 4)[0][2:] == [15, 2]


def test_sampling_as_vllm_does() -> None:
    processor = VllmLogitsProcessor(SMALL, "image")
    logits = np.zeros(16, np.float32)
    for prompt, output, allowed in (([5], [], [14]), ([5, 14], [10], [10, 11, 12, 13]), ((5,), (14, 10, 11, 15), [2])):
        assert np.flatnonzero(np.isfinite(processor(prompt, output, logits))).tolist() == allowed
    assert np.isfinite(logits).all(), "what was given stays as it is"
    # vLLM gives the prompt to those that take three arguments.
    assert len(inspect.signature(processor).parameters) == 3
