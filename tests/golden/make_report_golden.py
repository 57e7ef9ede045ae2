#!/usr/bin/env python3
"""Prints the numbers of tests/launch/report_statistics_test.cc: scipy and numpy on the paper's twelve points (Gflops and
FID-50K of the sizes S, B, L, XL with patches 8, 4, 2) and on points with ties.

usage: tests/golden/make_report_golden.py       needs numpy and scipy
"""
import numpy
import scipy.stats

GFLOPS = [.36, 1.41, 6.06, 1.42, 5.56, 23.01, 5.01, 19.70, 80.71, 7.39, 29.05, 118.64]
FID = [153.60, 100.41, 68.40, 122.74, 68.38, 43.47, 118.87, 45.64, 23.33, 106.41, 43.01, 19.47]
TIED_X = [1, 2, 2, 3, 5, 5, 5, 8]
TIED_Y = [2, 1, 4, 4, 4, 7, 9, 9]


def main():
    x, y = numpy.log(GFLOPS), numpy.log(FID)
    line = scipy.stats.linregress(x, y)
    print(f"law: exponent {line.slope:.15g} +- {line.stderr:.15g}, factor {numpy.exp(line.intercept):.15g}, "
          f"error of its log {line.intercept_stderr:.15g}, r^2 {line.rvalue ** 2:.15g}")
    for name, values in (("log-log", (x, y)), ("log-linear", (x, FID))):
        pearson = scipy.stats.pearsonr(*values)
        low, high = pearson.confidence_interval(0.95)
        print(f"{name}: r {pearson.statistic:.15g} [{low:.15g}, {high:.15g}]")
    print(f"spearman: {scipy.stats.spearmanr(GFLOPS, FID).statistic:.15g}")
    line = scipy.stats.linregress(TIED_X, TIED_Y)
    print(f"ties: intercept {line.intercept:.15g} +- {line.intercept_stderr:.15g}, slope {line.slope:.15g} "
          f"+- {line.stderr:.15g}, r^2 {line.rvalue ** 2:.15g}")
    pearson = scipy.stats.pearsonr(TIED_X, TIED_Y)
    low, high = pearson.confidence_interval(0.95)
    print(f"ties: r {pearson.statistic:.15g} [{low:.15g}, {high:.15g}], "
          f"spearman {scipy.stats.spearmanr(TIED_X, TIED_Y).statistic:.15g}")


if __name__ == "__main__":
    main()
