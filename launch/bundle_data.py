#!/usr/bin/env python3
"""Draws the bundle's small data set as two IDX files: 512 grey images of 32 x 32, stripes whose direction is the class.

usage: launch/bundle_data.py IMAGES LABELS
"""
import math
import pathlib
import random
import struct
import sys

COUNT, SIDE, CLASSES = 512, 32, 10


def stripes(label, rng):
    angle, phase = math.pi * label / CLASSES, rng.uniform(0, 2 * math.pi)
    step_x, step_y = math.cos(angle) * 2 * math.pi / 8, math.sin(angle) * 2 * math.pi / 8
    return bytes(round(127.5 + 127.5 * math.sin(phase + step_x * x + step_y * y))
                 for y in range(SIDE) for x in range(SIDE))


def main():
    rng = random.Random(0)
    images = b"".join(stripes(i % CLASSES, rng) for i in range(COUNT))
    labels = bytes(i % CLASSES for i in range(COUNT))
    pathlib.Path(sys.argv[1]).write_bytes(struct.pack(">IIII", 0x803, COUNT, SIDE, SIDE) + images)
    pathlib.Path(sys.argv[2]).write_bytes(struct.pack(">II", 0x801, COUNT) + labels)


if __name__ == "__main__":
    main()
