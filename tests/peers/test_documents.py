"""Data sets of several images a sample are read: conversations and documents, with their order."""

import json
from pathlib import Path

import datasets
import pytest
from conftest import SHARD_SIZE, Scenes, Tokenize, rows_of
from datasets.table import embed_table_storage


def write_records(path: Path, records: list[dict]) -> None:
    """One array for .json, lines for .jsonl."""
    lines = "".join(json.dumps(record) + "\n" for record in records)
    path.write_text(json.dumps(records, indent=2) if path.suffix == ".json" else lines)


def talk(scenes: Scenes, names: list[str]) -> list[dict]:
    """A conversation about some images."""
    question = "<image>\n" * len(names) + 'What is "this"?'
    answer = "; ".join(scenes.captions[name] for name in names) or "Nothing: é, 中"
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def check(out: Path, records: list[dict], codes: list) -> None:
    """Keys, codes and conversations of all records, in order."""
    rows = rows_of(out)
    assert [row["key"] for row in rows] == [record["id"] for record in records]
    assert [row["codes"] for row in rows] == codes
    assert [json.loads(row["conversations"]) for row in rows] == [record["conversations"] for record in records]


@pytest.mark.parametrize("name", ["llava.json", "llava.jsonl"])
def test_llava_with_an_image_each(name: str, scenes: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    records = [{"id": Path(n).stem, "image": n, "conversations": talk(scenes, [n])} for n in scenes.names]
    write_records(tmp_path / name, records)
    out = tokenize(tmp_path / name, "--root", scenes.folder)
    check(out, records, [scenes.codes[name] for name in scenes.names])


@pytest.mark.parametrize("name", ["llava.json", "llava.jsonl"])
def test_llava_with_any_number_of_images(name: str, scenes: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    """Lists, plain names, and records of text alone, which here fill a shard too."""
    records, groups = [], [*scenes.groups(), *([] for _ in range(2 * SHARD_SIZE))]
    for i, names in enumerate(groups):
        images = {0: {}, 1: {"image": names[0] if names else None}}.get(len(names), {"image": names})
        records.append({"id": f"{i:04}", **images, "conversations": talk(scenes, names)})
    write_records(tmp_path / name, records)
    out = tokenize(tmp_path / name, "--root", scenes.folder)
    check(out, records, [[scenes.codes[name] for name in names] for names in groups])


def test_llava_with_ids_that_come_again(scenes: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    """As in llava_v1_5_mix665k, where several data sets were put together."""
    names = scenes.names
    records = [{"id": f"{i // 2:04}", "image": n, "conversations": talk(scenes, [n])} for i, n in enumerate(names)]
    write_records(tmp_path / "mix.json", records)
    rows = rows_of(tokenize(tmp_path / "mix.json", "--root", scenes.folder))
    assert [row["codes"] for row in rows] == [scenes.codes[name] for name in names]


def pieces(scenes: Scenes) -> list[list[tuple[str, str]]]:
    """Documents: a text, then images that a text follows each, and two images side by side."""
    documents = []
    for number, names in enumerate(scenes.groups()):
        document = [("text", f"Document {number}")]
        for i, name in enumerate(names):
            document.append(("image", name))
            if i != 1:
                document.append(("text", scenes.captions[name]))
        documents.append([*document, ("text", "The end.")])
    return documents


def texts_and_codes(scenes: Scenes, document: list[tuple[str, str]]) -> dict:
    """A document as it is in the output."""
    texts = [content if kind == "text" else None for kind, content in document]
    codes = [scenes.codes[content] if kind == "image" else None for kind, content in document]
    return {"texts": texts, "codes": codes}


@pytest.mark.parametrize("form", ["paths", "structs of paths", "structs of bytes"])
def test_obelics(form: str, scenes: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    """Images as local paths, and as the structs of `datasets`; null where the other list has something."""
    documents = pieces(scenes)
    images = [[str(scenes.folder / n) if kind == "image" else None for kind, n in document] for document in documents]
    texts = [[text if kind == "text" else None for kind, text in document] for document in documents]
    metadata = [json.dumps([None] * len(document)) for document in documents]
    written = datasets.Dataset.from_dict({"images": images, "metadata": metadata, "texts": texts})
    if form != "paths":
        written = written.cast_column("images", datasets.List(datasets.Image()))
    if form == "structs of bytes":
        written = written.with_format("arrow").map(embed_table_storage, batched=True)
    written.to_parquet(tmp_path / "obelics.parquet", batch_size=SHARD_SIZE)
    keys = [f"obelics-{row:09}" for row in range(len(documents))]
    wanted = [
        {"key": key, **texts_and_codes(scenes, document), "metadata": about}
        for key, document, about in zip(keys, documents, metadata)
    ]
    assert rows_of(tokenize(tmp_path / "obelics.parquet", "--columns", "metadata")) == wanted


def test_mmc4(scenes: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    """Images before the texts that they belong to."""
    documents, records = pieces(scenes), []
    for number, document in enumerate(documents):
        texts, images = [], []
        for kind, content in document:
            if kind == "text":
                texts.append(content)
            else:
                similarity = {"matched_text_index": len(texts), "matched_sim": 0.5}
                images.append({"image_name": content, "raw_url": f"https://example.org/{content}", **similarity})
        url = f"https://example.org/{number}"
        records.append({"url": url, "text_list": texts, "image_info": images, "similarity_matrix": [[0.5]]})
    write_records(tmp_path / "shard.jsonl", records)
    wanted = [
        {"key": record["url"], **texts_and_codes(scenes, document)} for record, document in zip(records, documents)
    ]
    assert rows_of(tokenize(tmp_path / "shard.jsonl", "--root", scenes.folder)) == wanted
