"""Every output format opens in the readers that people have for it."""

import json
import pickle
import struct
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from conftest import COUNT, SHARD_SIZE, Scenes, Seed, Tokenize
from datasets import List, Value

SHARDS = ["00000", "00001", "00002"]
CODES = List(Value("uint16"), length=32)
FEATURES = {"key": Value("string"), "codes": CODES, "caption": Value("string")}
# Numpy types of the type codes in Megatron's index.
MEGATRON_TYPES = {4: "<i4", 8: "<u2"}


def expected(scenes: Scenes) -> list[dict]:
    """The rows of the folder of scenes."""
    return [{"key": n, "codes": scenes.codes[n], "caption": scenes.captions[n]} for n in scenes.names]


def files(out: Path, ending: str) -> list[str]:
    """The files of all shards, in order; there are no others with this ending."""
    found = sorted(out.rglob(f"*.{ending}"))
    assert found == [out / f"{shard}.{ending}" for shard in SHARDS]
    return list(map(str, found))


def load(builder: str | Path, cache: Path, **options: object) -> datasets.Dataset:
    """The one split of a data set, through a cache of its own."""
    splits = datasets.load_dataset(str(builder), cache_dir=str(cache), **options)
    assert list(splits) == ["train"]
    return splits["train"]


@pytest.fixture
def failing(scenes: Scenes, tmp_path: Path) -> Path:
    """A list of images that are not there, which fill the first shard, and of all that are."""
    names = [f"missing{i}.png" for i in range(SHARD_SIZE)] + [str(scenes.folder / name) for name in scenes.names]
    path = tmp_path / "failing.csv"
    path.write_text("path\n" + "".join(f"{name}\n" for name in names))
    return path


@pytest.fixture
def llava(scenes: Scenes, tmp_path: Path) -> Path:
    """Records with lists of images."""
    path = tmp_path / "llava.jsonl"
    records = [{"id": f"{i:03}", "image": names, "conversations": []} for i, names in enumerate(scenes.groups())]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def documents(scenes: Scenes, tmp_path: Path) -> Path:
    """Documents of images and texts, a column of each."""
    groups = scenes.groups()
    images = [[place for name in names for place in (name, None)] for names in groups]
    texts = [[place for name in names for place in (None, scenes.captions[name])] for names in groups]
    path = tmp_path / "documents.parquet"
    pq.write_table(pa.table({"images": images, "texts": texts}), path, row_group_size=10)
    return path


def expected_documents(scenes: Scenes) -> list[dict]:
    """Texts and codes of the documents."""
    groups = scenes.groups()
    codes = [[place for name in names for place in (scenes.codes[name], None)] for names in groups]
    texts = [[place for name in names for place in (None, scenes.captions[name])] for names in groups]
    return [{"texts": t, "codes": c} for t, c in zip(texts, codes)]


def test_parquet_in_pyarrow(scenes: Scenes, tokenize: Tokenize) -> None:
    paths = files(tokenize(scenes.folder), "parquet")
    schema = pq.read_schema(paths[0])
    assert schema.names == ["key", "codes", "caption"]
    assert schema.field("codes").type == pa.list_(pa.uint16(), 32)
    assert schema.field("key").type == schema.field("caption").type == pa.string()
    assert all(pq.read_schema(path).equals(schema, check_metadata=True) for path in paths)
    assert pq.read_table(paths).to_pylist() == expected(scenes)


def test_parquet_in_datasets(scenes: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    out = tokenize(scenes.folder)
    rows = load("parquet", tmp_path, data_files=files(out, "parquet"))
    assert rows.features == FEATURES
    assert rows.to_list() == expected(scenes)


def test_the_features_come_from_the_metadata(scenes: Scenes, tokenize: Tokenize) -> None:
    path = files(tokenize(scenes.folder), "parquet")[0]
    recorded = json.loads(pq.read_schema(path).metadata[b"huggingface"])
    assert datasets.Features.from_dict(recorded["info"]["features"]) == FEATURES


@pytest.mark.parametrize("layout", ["parquet", "jsonl"])
def test_a_folder_in_datasets(
    layout: str, failing: Path, scenes: Scenes, tokenize: Tokenize, tmp_path: Path
) -> None:
    """The output's folder is a data set as it is: neither `__seed__` nor the record of failures is taken for data."""
    out = tokenize(failing, "--format", layout, code=3)
    assert list(out.glob("__seed__/failures/*.jsonl"))
    rows = load(out, tmp_path / "cache")
    assert rows.column_names == ["key", "codes"]
    assert rows["codes"][:] == [scenes.codes[name] for name in scenes.names]


def test_several_images_in_parquet(scenes: Scenes, llava: Path, tokenize: Tokenize, tmp_path: Path) -> None:
    out = tokenize(llava, "--root", scenes.folder)
    codes = [[scenes.codes[name] for name in names] for names in scenes.groups()]
    table = pq.read_table(sorted(out.glob("*.parquet")))
    assert table.schema.field("codes").type == pa.list_(pa.list_(pa.uint16(), 32))
    assert table["codes"].to_pylist() == codes
    rows = load(out, tmp_path)
    assert rows.features == {"key": Value("string"), "codes": List(CODES), "conversations": Value("string")}
    assert rows["codes"][:] == codes


def test_documents_in_parquet(scenes: Scenes, documents: Path, tokenize: Tokenize, tmp_path: Path) -> None:
    out = tokenize(documents, "--root", scenes.folder)
    table = pq.read_table(sorted(out.glob("*.parquet")))
    assert table.schema.field("codes").type == pa.list_(pa.list_(pa.uint16(), 32))
    assert table.select(["texts", "codes"]).to_pylist() == expected_documents(scenes)
    rows = load(out, tmp_path)
    assert rows.features == {"key": Value("string"), "texts": List(Value("string")), "codes": List(CODES)}
    assert rows.select_columns(["texts", "codes"]).to_list() == expected_documents(scenes)


def test_jsonl(scenes: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    out = tokenize(scenes.folder, "--format", "jsonl")
    paths = [out / f"{shard}.jsonl" for shard in SHARDS]
    assert [json.loads(line) for path in paths for line in path.read_text().splitlines()] == expected(scenes)
    assert load("json", tmp_path, data_files=list(map(str, paths))).to_list() == expected(scenes)


def test_documents_in_jsonl(scenes: Scenes, documents: Path, tokenize: Tokenize) -> None:
    out = tokenize(documents, "--root", scenes.folder, "--format", "jsonl")
    rows = [json.loads(line) for path in sorted(out.glob("*.jsonl")) for line in path.read_text().splitlines()]
    assert [{"texts": row["texts"], "codes": row["codes"]} for row in rows] == expected_documents(scenes)


def test_seed_tar(scenes: Scenes, tokenize: Tokenize) -> None:
    """The samples of the official training data."""
    out = tokenize(scenes.folder, "--format", "seed-tar")
    paths = [out / f"part-0000/{shard:07}.tar" for shard in range(3)]
    assert sorted(out.rglob("*.tar")) == paths
    samples = []
    for path in paths:
        with tarfile.open(path) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar]
        assert all(name.endswith(".pkl") for name, _ in members)
        samples += [pickle.loads(content) for _, content in members]
    wanted = [
        {"image_ids": row["codes"], "text": row["caption"], "metadata": {"key": row["key"]}} for row in expected(scenes)
    ]
    assert samples == wanted
    read = wds.WebDataset(list(map(str, paths)), shardshuffle=False).decode()
    assert [sample["pkl"] for sample in read] == wanted


def test_webdataset(scenes: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    paths = files(tokenize(scenes.folder, "--format", "webdataset"), "tar")
    assert load("webdataset", tmp_path, data_files=paths)["json"][:] == expected(scenes)
    samples = list(wds.WebDataset(paths, shardshuffle=False).decode())
    assert [sample["json"] for sample in samples] == expected(scenes)
    assert len({sample["__key__"] for sample in samples}) == COUNT


def test_webdataset_mirrors_its_input(scenes: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    """A tar for each tar, with the same keys, of any size."""
    sizes = [7, 40, 13]
    names = iter(scenes.names)
    for shard, size in enumerate(sizes):
        with wds.TarWriter(str(tmp_path / f"{shard:05}.tar")) as tar:
            for name in (next(names) for _ in range(size)):
                sample = {"__key__": Path(name).stem, "png": scenes.bytes(name), "txt": scenes.captions[name]}
                tar.write(sample)
    names = iter(scenes.names)
    for path, size in zip(files(tokenize(tmp_path, "--format", "webdataset"), "tar"), sizes):
        samples = list(wds.WebDataset(path, shardshuffle=False).decode())
        wanted = [next(names) for _ in range(size)]
        assert [sample["__key__"] for sample in samples] == [Path(name).stem for name in wanted]
        assert [sample["json"]["codes"] for sample in samples] == [scenes.codes[name] for name in wanted]
        assert [sample["json"]["caption"] for sample in samples] == [scenes.captions[name] for name in wanted]


@pytest.mark.parametrize("mode", [None, "r"])
def test_npy(mode: str | None, scenes: Scenes, tokenize: Tokenize) -> None:
    out = tokenize(scenes.folder, "--format", "npy")
    arrays = [np.load(path, mmap_mode=mode) for path in files(out, "npy")]
    assert [array.shape for array in arrays] == [(25, 32), (25, 32), (10, 32)]
    assert all(array.dtype == np.uint16 for array in arrays)
    assert np.concatenate(arrays).tolist() == [scenes.codes[name] for name in scenes.names]
    index = pq.read_table(files(out, "parquet")).to_pylist()
    assert index == [{"key": name, "caption": scenes.captions[name]} for name in scenes.names]


def read_megatron(prefix: Path) -> tuple[np.dtype, list[list[int]]]:
    """Type of the ids, and the ids of each document, by the description of Megatron-LM's indexed data sets."""
    index, tokens = prefix.with_suffix(".idx").read_bytes(), prefix.with_suffix(".bin").read_bytes()
    magic, version, code, sequences, boundaries = struct.unpack_from("<9sQBQQ", index)
    assert (magic, version) == (b"MMIDIDX\0\0", 1)
    kind = np.dtype(MEGATRON_TYPES[code])
    arrays, offset = [], struct.calcsize("<9sQBQQ")
    for dtype, count in (("<i4", sequences), ("<i8", sequences), ("<i8", boundaries)):
        arrays.append(np.frombuffer(index, dtype, count, offset))
        offset += arrays[-1].nbytes
    assert offset == len(index)
    lengths, pointers, borders = arrays
    assert borders[0] == 0 and borders[-1] == sequences and lengths.sum() * kind.itemsize == len(tokens)
    rows = [np.frombuffer(tokens, kind, length, pointer).tolist() for length, pointer in zip(lengths, pointers)]
    return kind, [sum(rows[start:end], []) for start, end in zip(borders, borders[1:])]


@pytest.mark.parametrize(
    ("options", "kind", "begin", "offset", "end"),
    [
        ([], "<u2", 40192, 32000, 40193),
        (["--offset", 100000, "--begin-id", 5, "--end-id", 6], "<i4", 5, 100000, 6),
    ],
)
def test_megatron(
    options: list, kind: str, begin: int, offset: int, end: int, scenes: Scenes, tokenize: Tokenize
) -> None:
    out = tokenize(scenes.folder, "--format", "megatron", *options)
    files(out, "bin")
    shards = [read_megatron(Path(path)) for path in files(out, "idx")]
    assert all(found == np.dtype(kind) for found, _ in shards)
    wanted = [[begin, *(code + offset for code in scenes.codes[name]), end] for name in scenes.names]
    assert [document for _, found in shards for document in found] == wanted
    assert pq.read_table(files(out, "parquet"))["key"].to_pylist() == scenes.names


@pytest.mark.parametrize("layout", ["webdataset", "npy", "megatron"])
def test_a_shard_without_rows(layout: str, failing: Path, scenes: Scenes, tokenize: Tokenize) -> None:
    """It does not keep readers from the other shards. Megatron-LM maps `.bin` into memory."""
    out = tokenize(failing, "--format", layout, code=3)
    match layout:
        case "webdataset":
            tars = list(map(str, sorted(out.glob("*.tar"))))
            rows = [sample["json"]["codes"] for sample in wds.WebDataset(tars, shardshuffle=False).decode()]
        case "npy":
            rows = np.concatenate([np.load(path, mmap_mode="r") for path in sorted(out.glob("*.npy"))])
        case "megatron":
            maps = [np.memmap(path, mode="r", dtype="<u2").reshape(-1, 34) for path in sorted(out.glob("*.bin"))]
            rows = np.concatenate(maps)[:, 1:-1] - 32000
    assert np.array_equal(rows, [scenes.codes[name] for name in scenes.names])


@pytest.mark.parametrize("layout", ["seed-tar", "npy", "megatron"])
def test_one_image_formats_refuse_several(layout: str, scenes: Scenes, llava: Path, seed: Seed, tmp_path: Path) -> None:
    seed("tokenize", llava, "--root", scenes.folder, "--format", layout, "--out", tmp_path / "out", code=1)
