// Which instruction sets the CPU kernels are compiled for. To be included before any Highway header, by every file that
// uses Highway, so that all of them agree. Left: the baseline of the architecture, AVX2 and AVX-512 (AVX3: the Skylake
// set, which every later processor has) on x86; NEON on aarch64. The others would lengthen builds and gain nothing in
// fp32; the scalable vectors of SVE cannot be held in the register tiles' arrays.
#pragma once

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
