"""Small images in every variant of the formats, and what Pillow makes of them.

Writes cases.safetensors beside this file: `NAME.file` is a file's bytes, `NAME.rgb` is Image.open(f).convert("RGB");
`WxH-to-WxH-FILTER.from` and `.to` are resizes. Needs pillow==11.3.0, numpy and safetensors.
"""
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin
from safetensors.numpy import save_file

random = np.random.default_rng(11)
cases: dict[str, np.ndarray] = {}


def add(name: str, data: bytes) -> None:
    cases[f"{name}.file"] = np.frombuffer(data, np.uint8)
    cases[f"{name}.rgb"] = np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def save(name: str, image: Image.Image, format: str, **options) -> None:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    add(name, buffer.getvalue())


def noise(*shape: int, below: int = 256) -> np.ndarray:
    return random.integers(0, below, shape)


def scene(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([127 + 110 * np.sin(x / (3 + 2 * c) + y / (7 - c)) for c in range(3)], -1)
    return Image.fromarray((waves + random.normal(0, 12, waves.shape)).clip(0, 255).astype(np.uint8))


def pack(rows: np.ndarray, depth: int, order: str = ">") -> list[bytes]:
    """Rows of samples as bytes, below 8 bits from the most significant bit on."""
    rows = rows.reshape(len(rows), -1)
    if depth >= 8:
        return [row.astype(f"{order}u{depth // 8}").tobytes() for row in rows]
    shifts = np.arange(depth - 1, -1, -1)
    return [np.packbits((row[:, None] >> shifts & 1).astype(np.uint8)).tobytes() for row in rows]


def png() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
    depths = {0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16]}
    for color in depths:
        for depth in depths[color]:
            for interlaced in (False, True):
                height, width = noise(2, below=20) + 1
                samples = noise(height, width, channels[color], below=1 << depth)
                if color == 0 and depth == 16:
                    samples //= 200  # below and above 255
                data = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
                file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", data)
                if color == 3:  # shorter than the indices reach
                    file += chunk(b"PLTE", noise(3 * max(1, (1 << depth) - 1)).astype(np.uint8).tobytes())
                if color in (0, 2, 3):
                    file += chunk(b"tRNS", {0: bytes(2), 2: bytes(6), 3: b"\x07"}[color])
                parts = [samples[y::dy, x::dx] for x, y, dx, dy in passes] if interlaced else [samples]
                rows = b"".join(b"\0" + row for part in parts if part.size for row in pack(part, depth))
                file += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
                add(f"png-color{color}-depth{depth}{'-interlaced' * interlaced}", file)
    frames = [scene(9, 13) for _ in range(3)]
    save("png-animated", frames[0], "PNG", save_all=True, append_images=frames[1:])


def gif() -> None:
    def palette(bits: int, grey: bool) -> bytes:
        return bytes((np.arange(1 << bits).repeat(3) if grey else noise(3 << bits)).astype(np.uint8))

    def codes(indices: bytes) -> bytes:
        """LZW of 3-bit colours in codes of 4 bits: the table is cleared before codes grow."""
        values = [value for i, index in enumerate(indices) for value in ([8] if i % 5 == 0 else []) + [index]] + [9]
        values += [0] * (len(values) % 2)
        data = bytes(low | high << 4 for low, high in zip(values[::2], values[1::2]))
        blocks = [data[i:i + 255] for i in range(0, len(data), 255)]
        return b"\x03" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"

    # global palette, local palette, transparent colour, frame on the screen, interlaced
    variants = {
        "global": ("color", None, None, (0, 0, 12, 9), 0), "local": ("color", "color", None, (0, 0, 12, 9), 0),
        "partial": ("color", None, None, (3, 2, 5, 4), 0), "partial-transparent": ("color", None, 5, (3, 2, 5, 4), 0),
        "beyond": ("color", None, None, (7, 6, 12, 9), 0), "interlaced": ("color", None, None, (0, 0, 12, 9), 1),
        "grey": ("grey", None, None, (1, 1, 4, 4), 0), "grey-local": ("color", "grey", None, (0, 0, 12, 9), 0),
        "no-palette": (None, None, 3, (2, 2, 6, 4), 1), "only-local": (None, "color", 2, (2, 2, 6, 4), 0),
    }
    for name, (global_palette, local_palette, transparent, (x, y, width, height), interlaced) in variants.items():
        file = b"GIF89a" + struct.pack("<HHBBB", 12, 9, 0x82 if global_palette else 0, 1, 0)
        file += palette(3, global_palette == "grey") if global_palette else b""
        file += b"!\xfe\x05hello\0"
        if transparent is not None:
            file += b"!\xf9\x04" + bytes([1 | 2 << 2, 10, 0, transparent]) + b"\0"
        file += b"," + struct.pack("<HHHHB", x, y, width, height, interlaced << 6 | (0x82 if local_palette else 0))
        file += palette(3, local_palette == "grey") if local_palette else b""
        add(f"gif-{name}", file + codes(bytes(noise(width * height, below=8).astype(np.uint8))) + b";")
    save("gif-256", scene(40, 50).quantize(256), "GIF")
    frames = [scene(20, 20).quantize(9) for _ in range(2)]
    save("gif-animated", frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=2)


def bmp() -> None:
    def add_bmp(name, size, bits, rows, width, height, compression=0, palette=b"", masks=b"", colors=0):
        header = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, 0, 1, 1, colors, 0)
        if size == 12:
            header = struct.pack("<IHHHH", size, width, height, 1, bits)
        header = (header + masks).ljust(size, b"\0") + palette
        data = header + (b"\0" if len(header) % 2 else b"")
        add(f"bmp-{name}", b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(data)) + data + rows)

    for bits in (1, 4, 8, 16, 24, 32):
        width, height = 11, 7
        rows = bytes(noise((width * bits + 31) // 32 * 4 * height).astype(np.uint8))
        for size, entry in ((12, 3), (40, 4), (124, 4)):
            palette = bytes(noise(entry << bits).astype(np.uint8)) if bits <= 8 else b""
            add_bmp(f"{bits}-header{size}", size, bits, rows, width, height, palette=palette)
        if bits > 8:
            add_bmp(f"{bits}-top-down", 40, bits, rows, width, -height)
    rows = bytes(noise(11 * 7 * 4).astype(np.uint8))
    for bits, masks in {16: [(0xF800, 0x7E0, 0x1F, 0)], 32: [(0xFF << 24, 0xFF << 16, 0xFF << 8, 0xFF),
                        (0xFF, 0xFF00, 0xFF0000, 0xFF << 24), (0xFF << 24, 0xFF00, 0xFF, 0xFF0000)]}.items():
        for i, mask in enumerate(masks):
            add_bmp(f"{bits}-masks{i}", 108, bits, rows, 11, 7, compression=3, masks=struct.pack("<IIII", *mask))
    palette = bytes(noise(64).astype(np.uint8))
    run_length = b"\3\1\0\4\5\6\7\x08\0\0" + b"\x09\2\0\0" + b"\2\3\0\2\1\1\4\4\0\0" + b"\0\1"
    add_bmp("run-length-8", 40, 8, run_length + bytes(0), 7, 3, compression=1, palette=palette, colors=16)
    run_length = b"\3\x12\0\4\x34\x56\0\0" + b"\x09\x12\0\0" + b"\7\x76\0\0" + b"\0\1"
    add_bmp("run-length-4", 40, 4, run_length, 7, 3, compression=2, palette=palette)
    save("bmp-grey", scene(9, 10).convert("L"), "BMP")
    save("bmp-bilevel", scene(9, 10).convert("1"), "BMP")


def tiff() -> None:
    def tags(**values: int) -> TiffImagePlugin.ImageFileDirectory_v2:
        directory = TiffImagePlugin.ImageFileDirectory_v2()
        names = {"strip": 278, "orientation": 274, "predictor": 317}
        for name, value in values.items():
            directory[names[name]] = value
        return directory

    image = scene(19, 23)
    for mode in ("1", "L", "LA", "RGB", "RGBA", "CMYK"):
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            name = f"tiff-{mode}-{compression}"
            save(name, image.convert(mode), "TIFF", compression=compression, tiffinfo=tags(strip=5))
    for compression in ("tiff_lzw", "tiff_adobe_deflate"):
        save(f"tiff-predictor-{compression}", image, "TIFF", compression=compression, tiffinfo=tags(predictor=2))
    for mode in ("L", "RGB", "CMYK", "YCbCr"):
        save(f"tiff-{mode}-jpeg", image.convert(mode), "TIFF", compression="jpeg", tiffinfo=tags(strip=16))
    save("tiff-group4", image.convert("1"), "TIFF", compression="group4")
    save("tiff-big", image, "TIFF", big_tiff=True)
    save("tiff-palette", image.quantize(40), "TIFF")
    save("tiff-float", Image.fromarray((random.random((8, 9)) * 400 - 60).astype(np.float32)), "TIFF")
    save("tiff-float-predictor", Image.fromarray((random.random((8, 9)) * 400 - 60).astype(np.float32)), "TIFF",
         compression="tiff_adobe_deflate", tiffinfo=tags(predictor=3))
    save("tiff-16", Image.fromarray(noise(8, 9, below=400).astype(np.uint16)), "TIFF")
    save("tiff-32", Image.fromarray((noise(8, 9, below=500) - 100).astype(np.int32)), "TIFF")
    for orientation in range(1, 9):
        save(f"tiff-orientation{orientation}", scene(5, 7), "TIFF", tiffinfo=tags(orientation=orientation))

    def add_tiff(name, order, photometric, bits, samples, extra=(), planar=1, tiled=False, fill=1):
        width, height, tile = 21, 18, 16
        pixels = noise(height, width, samples, below=1 << bits)
        planes = [pixels[:, :, i:i + 1] for i in range(samples)] if planar == 2 else [pixels]
        places = [(x, y) for y in range(0, height, tile) for x in range(0, width, tile)] if tiled else [(0, 0)]
        chunks = []
        for plane in planes:
            for x, y in places:
                part = plane[y:y + tile, x:x + tile] if tiled else plane
                if tiled:
                    part = np.pad(part, [(0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0)])
                data = b"".join(pack(part, bits, order))
                chunks.append(bytes(int(f"{byte:08b}"[::-1], 2) for byte in data) if fill == 2 else data)
        offsets = np.cumsum([8] + [len(chunk) for chunk in chunks]).tolist()
        entries = {256: [width], 257: [height], 258: [bits] * samples, 259: [1], 262: [photometric], 266: [fill],
                   277: [samples], 284: [planar]}
        places = {322: [tile], 323: [tile], 324: offsets[:-1], 325: [len(chunk) for chunk in chunks]}
        entries |= places if tiled else {273: offsets[:-1], 278: [height], 279: [len(chunk) for chunk in chunks]}
        if extra:
            entries[338] = list(extra)
        if photometric == 3:
            entries[320] = noise(3 << bits, below=65536).tolist()
        body, tail = b"".join(chunks), b""
        end = 8 + len(body) + 2 + 12 * len(entries) + 4
        directory = struct.pack(f"{order}H", len(entries))
        for tag, numbers in sorted(entries.items()):
            wide = tag in (273, 279, 324, 325)
            value = struct.pack(f"{order}{len(numbers)}{'I' if wide else 'H'}", *numbers)
            directory += struct.pack(f"{order}HHI", tag, 4 if wide else 3, len(numbers))
            directory += value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(f"{order}I", end + len(tail))
            tail += value if len(value) > 4 else b""
        magic = b"II*\0" if order == "<" else b"MM\0*"
        add(f"tiff-{name}", magic + struct.pack(f"{order}I", 8 + len(body)) + body + directory + bytes(4) + tail)

    for order, word in (("<", "little"), (">", "big")):
        for bits in (1, 2, 4, 8):
            add_tiff(f"{word}-white-is-zero{bits}", order, 0, bits, 1)
            add_tiff(f"{word}-palette{bits}-tiled", order, 3, bits, 1, tiled=bits == 8)
        add_tiff(f"{word}-rgb16", order, 2, 16, 3)
        add_tiff(f"{word}-premultiplied", order, 2, 8, 4, extra=(1,))
        add_tiff(f"{word}-premultiplied16", order, 2, 16, 4, extra=(1,))
        add_tiff(f"{word}-cmyk16-tiled", order, 5, 16, 4, tiled=True)
        add_tiff(f"{word}-planar", order, 2, 8, 3, planar=2)
        add_tiff(f"{word}-planar-tiled", order, 2, 8, 3, planar=2, tiled=True)
        add_tiff(f"{word}-reversed-bits", order, 1, 4, 1, fill=2)


def lossy() -> None:
    for subsampling in range(3):
        for progressive in (False, True):
            size = tuple(noise(2, below=50) + 1)
            name = f"jpeg-{subsampling}{'-progressive' * progressive}"
            save(name, scene(*size), "JPEG", quality=70, subsampling=subsampling, progressive=progressive)
    save("jpeg-restart", scene(30, 41), "JPEG", restart_marker_blocks=2, quality=90)
    save("jpeg-rgb", scene(30, 41), "JPEG", keep_rgb=True, quality=90)
    save("jpeg-cmyk", scene(30, 41).convert("CMYK"), "JPEG", quality=30)
    alpha = scene(33, 27)
    alpha.putalpha(Image.fromarray(noise(33, 27).astype(np.uint8)))
    for exact in (False, True):
        for lossless in (False, True):
            save(f"webp-alpha{'-exact' * exact}{'-lossless' * lossless}", alpha, "WEBP", exact=exact, lossless=lossless)
    for quality in (0, 40, 100):
        save(f"webp-{quality}", scene(*(noise(2, below=60) + 1)), "WEBP", quality=quality)
    frames = [scene(21, 32) for _ in range(2)]
    save("webp-animated", frames[0], "WEBP", save_all=True, append_images=frames[1:], quality=60)


def resizes() -> None:
    for (width, height), (to_width, to_height) in [
        ((1, 1), (5, 3)), ((1, 9), (4, 2)), ((40, 1), (7, 7)), ((31, 17), (17, 31)), ((31, 17), (31, 40)),
        ((31, 17), (90, 17)), ((64, 64), (1, 1)), ((300, 4), (13, 50)), ((90, 70), (64, 64)), ((5, 5), (64, 64)),
    ]:
        image = Image.fromarray(noise(height, width, 3).astype(np.uint8))
        for word, filter in (("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)):
            name = f"{width}x{height}-to-{to_width}x{to_height}-{word}"
            cases[f"{name}.from"] = np.array(image)
            cases[f"{name}.to"] = np.array(image.resize((to_width, to_height), filter))


for make in (png, gif, bmp, tiff, lossy, resizes):
    make()
save_file(cases, Path(__file__).with_name("cases.safetensors"))
print(len(cases) // 2, "cases")
