#!/usr/bin/env python3
"""Writes evaluate.npz and evaluate_statistics.npz: what the scores of sample sets are, by their definitions in numpy and
scipy. Inputs are formulas of an element's number (uniform, features below), so only results are stored.

usage: tests/golden/make_evaluate_golden.py      needs numpy and scipy
"""
import pathlib

import numpy as np
from scipy import linalg

HERE = pathlib.Path(__file__).resolve().parent
M32 = 0xFFFFFFFF


def uniform(seed, count):
    """[-0.5, 0.5) in steps of 2^-16: exact in fp32."""
    u = (np.arange(count, dtype=np.uint64) * 0x9E3779B1 + seed * 0x85EBCA77) & M32
    u ^= u >> 15
    u = (u * 0x2C1B3C6D) & M32
    u ^= u >> 12
    u = (u * 0x297A2D39) & M32
    u ^= u >> 15
    return (u >> 16).astype(np.float64) / 65536 - 0.5


def features(seed, count, dim):
    """Columns of unlike scale and mean."""
    column = np.arange(dim)
    return uniform(seed, count * dim).reshape(count, dim) * (1 + column % 4) + 0.125 * seed * (column % 3)


def grid(seed, count, dim):
    """Small integers: many equal distances, and equal vectors."""
    return np.floor((uniform(seed, count * dim).reshape(count, dim) + 0.5) * 4).astype(np.int64)


def factor(rows):
    """F with F^T F = numpy.cov(rows)."""
    return (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)


def frechet(a, b):
    """The distance between the features a and b. The trace of the root is the nuclear norm of F_a F_b^T: no root of
    small numbers, so exact to rounding for any rank."""
    root_trace = np.linalg.svd(factor(a) @ factor(b).T, compute_uv=False).sum()
    difference = a.mean(0) - b.mean(0)
    return difference @ difference + np.trace(np.cov(a, rowvar=False).reshape(a.shape[1], -1)) \
        + np.trace(np.cov(b, rowvar=False).reshape(a.shape[1], -1)) - 2 * root_trace


def frechet_by_sqrtm(a, b):
    """As the reference code of the FID has it."""
    cov_a, cov_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    root = linalg.sqrtm(cov_a.dot(cov_b))
    assert np.isfinite(root).all()
    difference = a.mean(0) - b.mean(0)
    return difference.dot(difference) + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root).real


# Samples of both sets and dims: full rank, one and both of too few samples, one dim.
FRECHET = {"full": (300, 200, 24), "few": (300, 10, 24), "both_few": (12, 9, 24), "one_dim": (50, 40, 1),
           "wide": (400, 500, 96)}


def inception_score(logits, splits):
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    p = shifted / shifted.sum(1, keepdims=True)
    scores = []
    for part in np.array_split(p, splits):
        divergence = (part * (np.log(part) - np.log(part.mean(0, keepdims=True)))).sum(1)
        scores.append(np.exp(divergence.mean()))
    return np.array([np.mean(scores), np.std(scores)])


def squared_distances(a, b):
    return ((a[:, None, :] - b[None, :, :]) ** 2).sum(-1)


def radii(rows, k):
    d = squared_distances(rows, rows)
    return np.array([np.sort(np.delete(d[i], i))[k - 1] for i in range(len(rows))])


def on_manifold(queries, rows, k):
    return (squared_distances(queries, rows) <= radii(rows, k)[None, :]).any(1)


def precision_recall(name, reference, samples, k, out):
    out[f"{name}.reference_radii"], out[f"{name}.sample_radii"] = radii(reference, k), radii(samples, k)
    out[f"{name}.samples_inside"] = on_manifold(samples, reference, k)
    out[f"{name}.reference_inside"] = on_manifold(reference, samples, k)


def main():
    out = {}
    rows = features(1, 300, 24)
    out["moments.mean"], out["moments.covariance"] = rows.mean(0), np.cov(rows, rowvar=False)
    for name, (count_a, count_b, dim) in FRECHET.items():
        a, b = features(1, count_a, dim), features(2, count_b, dim)
        out[f"frechet.{name}"] = frechet(a, b)
        print(f"frechet.{name}: {frechet(a, b):.9f}, sqrtm differs by {frechet_by_sqrtm(a, b) - frechet(a, b):.1e}")
    logits = 12 * uniform(3, 23 * 7).reshape(23, 7)
    out["inception.one_split"], out["inception.four_splits"] = inception_score(logits, 1), inception_score(logits, 4)
    precision_recall("grid", grid(4, 60, 3), 2 * grid(5, 50, 3) - 1, 3, out)
    precision_recall("real", features(1, 70, 24), features(2, 45, 24), 3, out)
    precision_recall("five", features(1, 70, 24), features(2, 45, 24), 5, out)
    np.savez(HERE / "evaluate.npz", **out)

    rows, spatial = features(6, 40, 6), features(7, 30, 4)
    np.savez(HERE / "evaluate_statistics.npz", mu=rows.mean(0).astype(np.float32), sigma=np.cov(rows, rowvar=False),
             mu_s=spatial.mean(0), sigma_s=np.cov(spatial, rowvar=False).astype(np.float32),
             arr_0=np.zeros((2, 4, 4, 3), np.uint8))


if __name__ == "__main__":
    main()
