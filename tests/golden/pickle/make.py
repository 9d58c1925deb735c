"""Small checkpoints in every form that torch.save has, and what PyTorch reads from them.

For each case NAME, writes beside this file NAME.zip.pt and NAME.legacy.pt (`_use_new_zipfile_serialization=False`), and
for each protocol of pickle protocol-N.zip.pt and protocol-N.legacy.pt. expected.safetensors holds `NAME/KEY`: the tensors
under the keys that they have when nested dictionaries are joined by dots. Made with torch 2.15 and numpy 2.4.
"""
import argparse
import collections
import pickle
import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
generator = torch.Generator().manual_seed(5)
expected: dict[str, torch.Tensor] = {}


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=generator).to(dtype)


def save(name: str, data: object, tensors: dict[str, torch.Tensor], protocol: int = 2) -> None:
    for form in ("zip", "legacy"):
        path = HERE / f"{name}.{form}.pt"
        torch.save(data, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")
    for key, tensor in tensors.items():
        expected[f"{name}/{key}"] = tensor.detach().clone(memory_format=torch.contiguous_format)


def flat(name: str, tensors: dict[str, torch.Tensor], protocol: int = 2) -> None:
    save(name, tensors, tensors, protocol)


floats = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}
integers = {"i64": torch.int64, "i32": torch.int32, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8}
flat(
    "dtypes",
    {key: noise(3, 2, dtype=dtype) for key, dtype in floats.items()}
    | {key: torch.arange(5).to(dtype) for key, dtype in integers.items()}
    | {"bool": torch.tensor([True, False, True])}
    # These have no storage class: torch.save names their dtype beside untyped bytes.
    | {"u16": torch.arange(3).to(torch.uint16), "u32": torch.arange(3).to(torch.uint32)}
    | {"f8": noise(4).to(torch.float8_e4m3fn), "f8_e5m2": noise(4).to(torch.float8_e5m2)},
)

base = noise(4, 6)
cube = noise(2, 3, 4)
flat(
    "views",
    {
        "whole": base,
        "transposed": base.T,
        "rows": base[1:3],
        "columns": base[:, 2:5],
        "steps": base[::2, 1::3],
        "row": base[3],
        "element": base[2, 1],
        "permuted": cube.permute(2, 0, 1),
        "half": noise(3, 5, dtype=torch.float16).T,
        "channels_last": noise(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": noise(1, 3).expand(4, 3),
        "column_of_one": noise(5, 3)[:, :1],
        "overlapping": torch.arange(6.0).as_strided((4, 3), (1, 1)),
    },
)

weight = noise(3, 3)
flat(
    "shapes",
    {
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0),
        "empty_rows": torch.empty(0, 7),
        "empty_slice": weight[:, 3:],
        "one": torch.ones(1, 1, 1),
        "tied_a": weight,
        "tied_b": weight,
        "parameter": torch.nn.Parameter(noise(2, 2)),
        "frozen": torch.nn.Parameter(weight.T, requires_grad=False),
    },
)
attributed = torch.nn.Parameter(noise(2))
attributed.weight_decay = 0.5
flat("attributes", {"parameter": attributed})

# A state dict as a module makes it: an OrderedDict with the attribute `_metadata`.
module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
module[0].weight.data = noise(2, 3)
module[0].bias.data = noise(2)
flat("batch_norm", module.state_dict())

optimizer = torch.optim.AdamW(module.parameters())
module(noise(4, 3)).sum().backward()
optimizer.step()
save(
    "training",
    {
        "model": {"a": noise(2), "nested": {"b": noise(3), "deep": {"c": noise(1)}}, "steps": 7, "none": {}},
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "big": 1 << 100,
        "loss": 0.25,
        "best": np.float64(0.75),
        "random": np.arange(3),
        "args": argparse.Namespace(lr=1e-4, device=torch.device("cuda", 1), dtype=torch.float16, mean=noise(3)),
        "shape": torch.Size([2, 3]),
        "names": ["a", ("b", None, True)],
        "seen": {1, 2},
        "defaults": collections.defaultdict(list, {"x": [1]}),
        "bytes": b"\x00\xff",
        "loose": noise(2),
    },
    {},
)
training = torch.load(HERE / "training.zip.pt", weights_only=False)["model"]
expected |= {
    "training/a": training["a"],
    "training/nested.b": training["nested"]["b"],
    "training/nested.deep.c": training["nested"]["deep"]["c"],
}
for wrapper in ("state_dict", "module"):
    inner = collections.OrderedDict(w=noise(2, 2))
    save(wrapper, {wrapper: inner, "epoch": 1}, {"w": inner["w"]})
two = {"model": {"w": noise(2)}, "module": {"w": noise(2)}, 0: noise(1)}
save("two", two, {"model.w": two["model"]["w"], "module.w": two["module"]["w"], "0": two[0]})

for protocol in range(2, 6):
    flat(f"protocol-{protocol}", collections.OrderedDict(weight=noise(3, 2).T, bias=noise(2), ähnlich=noise(1)), protocol)



def python2() -> bytes:
    """A file as Python 2 and PyTorch 0.3 wrote it, which no installation of today does: texts are byte strings, an
    OrderedDict gets its pairs as an argument, `_rebuild_tensor` has no gradient, a storage may be a view of another."""

    def string(value: str) -> bytes:
        return pickle.SHORT_BINSTRING + bytes([len(value)]) + value.encode()

    def number(value: int) -> bytes:
        return pickle.BININT + struct.pack("<i", value)

    def numbers(*values: int) -> bytes:
        return pickle.MARK + b"".join(map(number, values)) + pickle.TUPLE

    def dump(value: bytes) -> bytes:
        return pickle.PROTO + b"\x02" + value + pickle.STOP

    def tensor(view: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
        storage = string("storage") + b"ctorch\nFloatStorage\n" + string("94") + string("cpu") + number(6) + view
        storage = pickle.MARK + storage + pickle.TUPLE + pickle.BINPERSID
        arguments = pickle.MARK + storage + number(offset) + numbers(*size) + numbers(*stride) + pickle.TUPLE
        return b"ctorch._utils\n_rebuild_tensor\n" + arguments + pickle.REDUCE

    view = pickle.MARK + string("95") + number(2) + number(3) + pickle.TUPLE
    pairs = {"whole": tensor(pickle.NONE, 0, (2, 3), (3, 1)), "part": tensor(view, 1, (2,), (1,))}
    items = [pickle.EMPTY_LIST + pickle.MARK + string(key) + value + pickle.APPENDS for key, value in pairs.items()]
    items = pickle.EMPTY_LIST + pickle.MARK + b"".join(items) + pickle.APPENDS
    data = dump(b"ccollections\nOrderedDict\n" + items + pickle.TUPLE1 + pickle.REDUCE)
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    system = dump(pickle.EMPTY_DICT + pickle.MARK + string("little_endian") + pickle.NEWTRUE + pickle.SETITEMS)
    keys = dump(pickle.EMPTY_LIST + pickle.MARK + string("94") + pickle.APPENDS)
    return magic + pickle.dumps(1001, 2) + system + data + keys + struct.pack("<q6f", 6, *range(6))


path = HERE / "python2.legacy.pt"
path.write_bytes(python2())
expected |= {f"python2/{key}": tensor.clone() for key, tensor in torch.load(path, weights_only=False).items()}

path = HERE / "expected.safetensors"
save_file(expected, path)
path.chmod(0o644)
