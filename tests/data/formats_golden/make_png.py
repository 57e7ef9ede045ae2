"""Writes the PNG files that tests/data/formats_png_test.cc reads and tests/fuzz/png_fuzz.cc starts from, chunk by chunk with
Python's standard library. Pixel (y, x, c) is 40 y + 9 x + 40 c."""
import pathlib
import struct
import sys
import zlib

HEIGHT, WIDTH = 4, 5


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(colour, rows, depth=8, extra=b"", width=WIDTH, height=HEIGHT, interlaced=0):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    pixels = b"".join(b"\0" + bytes(row) for row in rows)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(pixels)) +
            chunk(b"IEND", b""))


def values(channels):
    return [[40 * y + 9 * x + 40 * c for x in range(WIDTH) for c in range(channels)] for y in range(HEIGHT)]


def gamma(value):
    return chunk(b"gAMA", struct.pack(">I", value))


PALETTE = chunk(b"PLTE", bytes(40 * (i // WIDTH) + 9 * (i % WIDTH) + 40 * c for i in range(20) for c in range(3)))
INDICES = [[y * WIDTH + x for x in range(WIDTH)] for y in range(HEIGHT)]

FILES = {
    "grey": png(0, values(1)),
    "rgb": png(2, values(3)),
    "rgb_srgb_gamma": png(2, values(3), extra=gamma(45455)),
    "palette": png(3, INDICES, extra=PALETTE),
    "grey_1_bit": png(0, [[0b10110000]] * HEIGHT, depth=1),
    "refused_gamma": png(2, values(3), extra=gamma(100000)),
    "refused_alpha": png(4, values(2)),
    "refused_transparent": png(3, INDICES, extra=PALETTE + chunk(b"tRNS", b"\0")),
    "refused_16_bits": png(0, values(2), depth=16),
    "refused_bomb": png(0, values(1), width=8000, height=8000),
    "refused_huge": png(0, values(1), width=2**31 - 1, height=2**31 - 1),
}

if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
    folder = folder if folder.is_dir() else folder.parent
    for name, content in FILES.items():
        (folder / f"png_{name}.png").write_bytes(content)
