"""Images of a column -> their codes and why some have none: what the adapters to engines share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from seed_tokenizer._native import SeedTokenizer
from seed_tokenizer.errors import ArgumentError, ImageError, InputTypeError, ReadError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as _pa
    from numpy.typing import NDArray

# What an image can be guilty of. Everything else is the machine's or the caller's and ends the task.
FAULTS = (ImageError, ReadError, InputTypeError, ArgumentError)

# Images between which an error is isolated: as many as the core encodes at a time.
AT_ONCE = 32

_loaded: dict[str, SeedTokenizer] = {}
_loading = threading.Lock()


def load(model: str, options: dict[str, Any]) -> SeedTokenizer:
    """A tokenizer, the same one for all tasks of a process that ask for the same."""
    asked = repr((model, sorted(options.items())))
    with _loading:
        if asked not in _loaded:
            _loaded.clear()  # one model in memory, on one device
            _loaded[asked] = SeedTokenizer.from_pretrained(model, **options)
        return _loaded[asked]


def codes_and_errors(seed: SeedTokenizer, images: Sequence[Any]) -> tuple[NDArray[np.uint16], list[str | None]]:
    """Codes [images, tokens], zeros where there is an error, and the errors."""
    import numpy as np

    codes = np.zeros((len(images), seed.num_tokens), np.uint16)
    errors: list[str | None] = [None] * len(images)
    for start in range(0, len(images), AT_ONCE):
        part = list(images[start : start + AT_ONCE])
        try:
            codes[start : start + len(part)] = seed.encode(part)
            continue
        except FAULTS:
            pass
        # One by one, but for the network: a broken image costs no batch of one.
        rows, pixels = [], []
        for row, image in enumerate(part, start):
            try:
                if image is None:
                    raise ImageError("there is no image")
                pixels.append(seed.preprocess([image])[0])
                rows.append(row)
            except FAULTS as error:
                errors[row] = str(error).removeprefix("image 0 ")
        if rows:
            codes[rows] = seed.encode_pixels(np.stack(pixels))
    return codes, errors


def images_of(column: _pa.ChunkedArray) -> list[Any]:
    """What `encode` takes, of a column of files, paths, `{"bytes", "path"}` or tensors."""
    images: list[Any] = []
    for chunk in column.chunks:
        if hasattr(chunk, "to_numpy_ndarray"):  # Arrow's own tensors
            images.extend(chunk.to_numpy_ndarray())
        elif hasattr(chunk.type, "extension_name"):  # Ray's tensors, of one shape or of several
            images.extend(chunk.to_numpy(zero_copy_only=False))
        else:
            images.extend(chunk.to_pylist())
    return images


class Encoder:
    """A table with a column of images to the same table with their codes: pyarrow in and out.

    The model is loaded at the first call, once a process; what is pickled is its name.

    Args:
        model: As in `SeedTokenizer.from_pretrained`.
        image_column: Column of files as bytes, of paths, of `{"bytes", "path"}` or of uint8 tensors.
        keep_image: Whether that column stays.
        options: Of `SeedTokenizer.from_pretrained`: device, dtype and so on.

    Called with a `pyarrow.Table`, it returns it with the columns `codes`, a `fixed_size_list<uint16>` that is null where
    there is an error, and `error`, a string that is null where there is none. Errors that are not an image's are raised.
    """

    def __init__(self, model: str = "bundled", *, image_column: str = "image", keep_image: bool = False, **options: Any) -> None:
        self.model, self.options = model, options
        self.image_column, self.keep_image = image_column, keep_image

    def __call__(self, table: _pa.Table) -> _pa.Table:
        import pyarrow as pa

        self.check(table.column_names)
        seed = load(self.model, self.options)
        codes, errors = codes_and_errors(seed, images_of(table[self.image_column]))
        failed = pa.array([error is not None for error in errors], pa.bool_())
        lists = pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), seed.num_tokens, mask=failed)
        if not self.keep_image:
            table = table.drop_columns([self.image_column])
        return table.append_column("codes", lists).append_column("error", pa.array(errors, pa.string()))

    def check(self, names: Sequence[str]) -> None:
        """Refuses tables without the column of images, and those that have what is to be added."""
        if self.image_column not in names:
            raise ArgumentError(f"there is no column {self.image_column} among {', '.join(names)}; name one by image_column")
        for name in ("codes", "error"):
            if name in names and (name != self.image_column or self.keep_image):
                raise ArgumentError(f"there is a column {name} already; rename it")
