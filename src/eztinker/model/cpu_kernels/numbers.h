/* Numbers of either dtype in AVX512 registers.
 *
 * The kernels beside this file do the steps of decoding that torch's do slowly for few rows. Each is compiled once per
 * dtype: for float32, and with BFLOAT16 defined for bfloat16, whose numbers are the upper halves of floats and are passed
 * as uint16_t. Sums are float32 in both, and results are rounded where the same torch expression rounds them. A row's
 * result never depends on the rows beside it: each sum runs over its inputs in one fixed order. Every kernel splits its
 * work over `threads` of OpenMP, which is the pool that torch computes with.
 */
#pragma once

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LANES 16 /* float32 numbers in a register */
#define ALL 0xFFFF
static inline __mmask16 first(int count) { return count >= LANES ? ALL : (__mmask16)((1u << count) - 1); }

#ifdef BFLOAT16

typedef uint16_t number;
typedef __m512bh Factors; /* 32 numbers; products of neighbours are added */
#define PAIRED 2          /* inputs that one instruction multiplies per output */

static inline __m512 widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
static inline __m256i narrow(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
static inline __m512 rounded(__m512 x) { return widen(narrow(x)); }
static inline __m512 load(const number *x, __mmask16 which) { return widen(_mm256_maskz_loadu_epi16(which, x)); }
static inline void store(number *y, __mmask16 which, __m512 x) { _mm256_mask_storeu_epi16(y, which, narrow(x)); }

static inline Factors factors(const number *x) { return (Factors)_mm512_loadu_si512(x); }
static inline Factors repeated(const number *x) {
    int pair;
    memcpy(&pair, x, sizeof pair);
    return (Factors)_mm512_set1_epi32(pair);
}
static inline __m512 multiply_add(Factors a, Factors b, __m512 sum) { return _mm512_dpbf16_ps(sum, a, b); }

/* 32 numbers as two registers, even and odd ones: a register of pairs widens to them in one step each. */
static inline void load_halves(const number *x, __m512 *even, __m512 *odd) {
    __m512i pairs = _mm512_loadu_si512(x);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xFFFF0000)));
}
static inline void store_halves(number *y, __m512 even, __m512 odd) {
    __m512i upper = _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow(odd)), 16);
    _mm512_storeu_si512(y, _mm512_or_si512(_mm512_cvtepu16_epi32(narrow(even)), upper));
}

#else

typedef float number;
typedef __m512 Factors;
#define PAIRED 1

static inline __m512 rounded(__m512 x) { return x; }
static inline __m512 load(const number *x, __mmask16 which) { return _mm512_maskz_loadu_ps(which, x); }
static inline void store(number *y, __mmask16 which, __m512 x) { _mm512_mask_storeu_ps(y, which, x); }

static inline Factors factors(const number *x) { return _mm512_loadu_ps(x); }
static inline Factors repeated(const number *x) { return _mm512_set1_ps(*x); }
static inline __m512 multiply_add(Factors a, Factors b, __m512 sum) { return _mm512_fmadd_ps(a, b, sum); }

static inline void load_halves(const number *x, __m512 *left, __m512 *right) {
    *left = _mm512_loadu_ps(x);
    *right = _mm512_loadu_ps(x + LANES);
}
static inline void store_halves(number *y, __m512 left, __m512 right) {
    _mm512_storeu_ps(y, left);
    _mm512_storeu_ps(y + LANES, right);
}

#endif

#define WIDE (LANES * PAIRED) /* numbers in `Factors` */

/* e^x to about one unit in the last place: 2^n times a polynomial on [-ln2/2, ln2/2]. Beyond the limits it is 0 or
 * infinity as it should be; they keep n finite. */
static inline __m512 exp_of(__m512 x) {
    x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-110.0f)), _mm512_set1_ps(110.0f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
    static const float terms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    for (int i = 0; i < 7; i++) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(terms[i]));
    return _mm512_scalef_ps(p, n);
}
