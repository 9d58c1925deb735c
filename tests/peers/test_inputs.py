"""Data sets as the usual libraries write them are read: codes, captions, structure and keys."""

import csv
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
import zstandard
from conftest import SHARD_SIZE, Scenes, Seed, Tokenize, rows_of
from datasets.table import embed_table_storage
from PIL import Image

# Captions that formats of text have to quote.
QUOTED = 'a "quoted" caption,\nover two lines: é, 中'


def skipped(out: Path) -> list[dict]:
    """The record of what is no row."""
    lines = (line for path in sorted(out.glob("__seed__/failures/*.jsonl")) for line in path.read_text().splitlines())
    return list(map(json.loads, lines))


def expected(scenes: Scenes, keys: Iterable[str]) -> list[dict]:
    """A row an image."""
    return [{"key": k, "codes": scenes.codes[n], "caption": scenes.captions[n]} for k, n in zip(keys, scenes.names)]


def stems(scenes: Scenes) -> list[str]:
    """File names without their endings."""
    return [Path(name).stem for name in scenes.names]


def numbered(stem: str, count: int) -> list[str]:
    """Keys of the rows of a parquet file that has none."""
    return [f"{stem}-{row:09}" for row in range(count)]


def paths(scenes: Scenes) -> list[str]:
    """Absolute paths of the images."""
    return [str(scenes.folder / name) for name in scenes.names]


def write_csv(path: Path, header: list[str], rows: Iterable[list]) -> None:
    """A table, quoted where it must be."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def images(scenes: Scenes, tmp_path: Path) -> Path:
    """A folder of the images, some of them deeper, without metadata."""
    for i, name in enumerate(scenes.names):
        folder = tmp_path / "images" / ("a" if i < 30 else "b/c")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(scenes.folder / name, folder)
    return tmp_path / "images"


@pytest.fixture
def quoted(scenes: Scenes) -> Scenes:
    """The scenes, with captions that must be quoted."""
    return Scenes(scenes.folder, scenes.codes, {name: f"{name} {QUOTED}" for name in scenes.names})


def nested(scenes: Scenes) -> list[str]:
    """Keys of the folder `images`."""
    return [f"a/{name}" if i < 30 else f"b/c/{name}" for i, name in enumerate(scenes.names)]


def test_folder_with_metadata_jsonl(scenes: Scenes, tokenize: Tokenize) -> None:
    assert rows_of(tokenize(scenes.folder)) == expected(scenes, scenes.names)


def test_folder_with_metadata_csv(quoted: Scenes, images: Path, tokenize: Tokenize) -> None:
    rows = [[key, quoted.captions[name]] for key, name in zip(nested(quoted), quoted.names)]
    write_csv(images / "metadata.csv", ["file_name", "text"], rows)
    assert rows_of(tokenize(images)) == expected(quoted, nested(quoted))
    described = datasets.load_dataset("imagefolder", data_dir=str(images), cache_dir=str(images.parent / "cache"))
    assert sorted(described["train"]["text"]) == sorted(quoted.captions.values())


def test_folder_with_texts_beside(quoted: Scenes, images: Path, tokenize: Tokenize) -> None:
    for key in nested(quoted):
        (images / key).with_suffix(".txt").write_text(quoted.captions[Path(key).name] + "\n")
    assert rows_of(tokenize(images)) == expected(quoted, nested(quoted))


def test_list_of_text(scenes: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths(scenes)))
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in scenes.names))
    wanted = list(scenes.codes[name] for name in scenes.names)
    for arguments, keys in ((["list.txt"], paths(scenes)), (["names.txt", "--root", scenes.folder], scenes.names)):
        rows = rows_of(tokenize(*arguments, cwd=tmp_path))
        assert [row["key"] for row in rows] == keys and [row["codes"] for row in rows] == wanted


def test_list_on_standard_input(scenes: Scenes, tokenize: Tokenize) -> None:
    rows = rows_of(tokenize("-", stdin="\n".join(scenes.names), cwd=scenes.folder))
    assert rows == [{"key": name, "codes": scenes.codes[name]} for name in scenes.names]


def test_list_of_csv(quoted: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    rows = [[path, quoted.captions[Path(path).name], i] for i, path in enumerate(paths(quoted))]
    write_csv(tmp_path / "list.csv", ["path", "caption", "number"], rows)
    wanted = [row | {"number": i} for i, row in enumerate(expected(quoted, paths(quoted)))]
    assert rows_of(tokenize(tmp_path / "list.csv", "--columns", "number:int")) == wanted


def test_several_captions_an_image(scenes: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    """As COCO has them: a row a caption, so that paths come again."""
    rows = [(name, f"{scenes.captions[name]} {i}") for name in scenes.names for i in range(5)]
    write_csv(tmp_path / "captions.csv", ["file_name", "caption"], rows)
    found = rows_of(tokenize(tmp_path / "captions.csv", "--root", scenes.folder))
    wanted = [(scenes.codes[name], caption) for name, caption in rows]
    assert [(row["codes"], row["caption"]) for row in found] == wanted


def samples(scenes: Scenes) -> Iterator[dict]:
    """As `webdataset` writes them."""
    for name in scenes.names:
        caption = scenes.captions[name]
        yield {"__key__": Path(name).stem, "png": scenes.bytes(name), "txt": caption, "json": {"caption": "other"}}


def write_shards(folder: Path, scenes: Scenes, ending: str) -> list[str]:
    """Tars of twenty samples each."""
    found = list(samples(scenes))
    names = [f"{shard:06}.{ending}" for shard in range(3)]
    for shard, name in enumerate(names):
        path = folder / name
        with zstandard.open(path, "wb") if ending.endswith("zst") else path.open("wb") as file:
            with wds.TarWriter(file, compress="gz" if ending.endswith("gz") else False) as tar:
                for sample in found[20 * shard : 20 * shard + 20]:
                    tar.write(sample)
    return names


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.zst"])
def test_webdataset(ending: str, quoted: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    names = write_shards(tmp_path, quoted, ending)
    for inputs in (names, [tmp_path], ["{000000..000002}." + ending], ["*." + ending]):
        out = tokenize(*inputs, cwd=tmp_path)
        assert rows_of(out) == expected(quoted, stems(quoted))
        assert [pq.read_metadata(path).num_rows for path in sorted(out.glob("*.parquet"))] == [20, 20, 20]


def test_shard_writer(scenes: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    with wds.ShardWriter(str(tmp_path / "part-%06d.tar"), maxcount=25, verbose=0) as writer:
        for sample in samples(scenes):
            writer.write(sample)
    assert rows_of(tokenize(tmp_path)) == expected(scenes, stems(scenes))


def test_webdataset_in_capitals(scenes: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    """`webdataset` reads the names of fields in lower case."""
    path = tmp_path / "capitals.tar"
    with wds.TarWriter(str(path)) as tar:
        for key, name in zip(stems(scenes), scenes.names):
            caption = scenes.captions[name].encode()
            tar.write({"__key__": key, "PNG": scenes.bytes(name), "TXT": caption})
    assert all({"png", "txt"} <= sample.keys() for sample in wds.WebDataset(str(path), shardshuffle=False))
    assert rows_of(tokenize(path)) == expected(scenes, stems(scenes))


@pytest.fixture
def photos(seed: Seed, scenes: Scenes, tmp_path: Path) -> Scenes:
    """The scenes as JPEG files, by their PNG names."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in scenes.names:
        Image.open(scenes.folder / name).save(folder / Path(name).with_suffix(".jpg"), quality=90)
    codes = {Path(name).stem + ".png": row for name, row in seed.encode(folder).items()}
    assert codes.keys() == scenes.codes.keys()
    return Scenes(folder, codes, scenes.captions)


def similarity(number: int) -> float:
    """Of the image with this number: every third is below a half."""
    return 0.25 + 0.25 * (number % 3)


@pytest.fixture
def img2dataset(photos: Scenes, tmp_path: Path) -> Path:
    """What img2dataset leaves: tars, a table of what was asked for beside each, and its statistics."""
    folder = tmp_path / "img2dataset"
    folder.mkdir()
    for shard in range(3):
        table = []
        with wds.TarWriter(str(folder / f"{shard:05}.tar")) as tar:
            for i, name in list(enumerate(photos.names))[20 * shard : 20 * shard + 20]:
                key, caption = f"{shard:05}{i % 20:04}", photos.captions[name]
                about = {"key": key, "url": f"https://example.org/{i}", "caption": caption, "similarity": similarity(i)}
                about |= {"status": "success", "error_message": None, "width": 64, "height": 64, "exif": "{}"}
                table.append(about)
                image = (photos.folder / name).with_suffix(".jpg").read_bytes()
                tar.write({"__key__": key, "jpg": image, "txt": caption, "json": about})
        table.append(table[-1] | {"key": f"{shard:05}0020", "status": "failed_to_download", "width": None})
        pq.write_table(pa.Table.from_pylist(table), folder / f"{shard:05}.parquet")
        statistics = {"count": 21, "successes": 20, "failed_to_download": 1, "start_time": 0.0, "end_time": 1.0}
        (folder / f"{shard:05}_stats.json").write_text(json.dumps(statistics, indent=4))
    return folder


def test_img2dataset(photos: Scenes, img2dataset: Path, tokenize: Tokenize) -> None:
    keys = [f"{i // 20:05}{i % 20:04}" for i in range(len(photos.names))]
    rows = [row | {"similarity": similarity(i)} for i, row in enumerate(expected(photos, keys))]
    every = tokenize(img2dataset, "--columns", "similarity:float")
    assert rows_of(every) == rows
    best = tokenize(img2dataset, "--columns", "similarity:float", "--min-similarity", 0.5)
    assert rows_of(best) == [row for i, row in enumerate(rows) if similarity(i) >= 0.5]
    left_out = [(item["key"], item["why"]) for item in skipped(best)]
    assert left_out == [(key, "filtered") for i, key in enumerate(keys) if similarity(i) < 0.5]


def test_img2dataset_that_was_not_finished(photos: Scenes, img2dataset: Path, tokenize: Tokenize) -> None:
    """The shard without statistics is none, and said to be."""
    (img2dataset / "00001_stats.json").unlink()
    out = tokenize(img2dataset, code=3)
    assert len(rows_of(out)) == 40
    assert [item["why"] for item in skipped(out)] == ["failed"] and "00001.tar" in skipped(out)[0]["key"]


def hugging_face(scenes: Scenes) -> datasets.Dataset:
    """With a column of images, which are files, of captions and of classes."""
    captions = [scenes.captions[name] for name in scenes.names]
    columns = {"image": paths(scenes), "text": captions, "label": [i % 2 for i in range(len(captions))]}
    kind = datasets.ClassLabel(names=["even", "odd"])
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image()).cast_column("label", kind)


@pytest.mark.parametrize("embedded", [True, False])
def test_hugging_face(embedded: bool, quoted: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    """Images in the file, as in every data set on the hub, and images that are files on this machine."""
    path = tmp_path / "train.parquet"
    written = hugging_face(quoted)
    if embedded:
        written = written.with_format("arrow").map(embed_table_storage, batched=True)
    written.to_parquet(path, batch_size=SHARD_SIZE)
    images = pq.read_table(path)["image"].to_pylist()
    assert all((image["bytes"] is not None) == embedded for image in images)
    rows = [row | {"label": i % 2} for i, row in enumerate(expected(quoted, numbered("train", len(images))))]
    assert rows_of(tokenize(path, "--columns", "label:int")) == rows


@pytest.mark.parametrize("column", ["path", "picture"])
def test_parquet_of_paths(column: str, quoted: Scenes, tokenize: Tokenize, tmp_path: Path) -> None:
    """Relative paths, in a column that is known by its name and in one that has to be named."""
    captions = [quoted.captions[name] for name in quoted.names]
    datasets.Dataset.from_dict({column: quoted.names, "id": stems(quoted), "text": captions}).to_parquet(
        tmp_path / "paths.parquet", batch_size=SHARD_SIZE
    )
    named = [] if column == "path" else ["--image-column", column]
    rows = rows_of(tokenize(tmp_path / "paths.parquet", "--root", quoted.folder, *named))
    assert rows == expected(quoted, stems(quoted))
