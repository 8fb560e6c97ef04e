/* The words of numbers.h for AVX512: registers of 16 float32 numbers. */
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 16 /* float32 numbers in a register */
#define REGISTERS 32

typedef __m512 Floats;

static inline __mmask16 first(int count) { return count >= LANES ? 0xFFFF : (__mmask16)((1u << count) - 1); }

static inline Floats repeat(float x) { return _mm512_set1_ps(x); }
static inline Floats load_floats(const float *x, int count) { return _mm512_maskz_loadu_ps(first(count), x); }
static inline Floats load_floats_or(const float *x, int count, Floats beyond) {
    return _mm512_mask_loadu_ps(beyond, first(count), x);
}
static inline void store_floats(float *y, int count, Floats x) { _mm512_mask_storeu_ps(y, first(count), x); }
static inline Floats kept(Floats x, int count) { return _mm512_maskz_mov_ps(first(count), x); }

static inline Floats fused(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
static inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
static inline Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
static inline Floats nearest_integers(Floats x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }
static inline Floats times_power_of_two(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }
static inline int equal_lanes(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static inline float sum_of(Floats x) { return _mm512_reduce_add_ps(x); }
static inline float greatest_of(Floats x) { return _mm512_reduce_max_ps(x); }

static inline Floats sums_of(const Floats *x) {
    __m512 pairs[8], quads[4], octets[2];
    for (int i = 0; i < 8; i++)
        pairs[i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]) + _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    for (int i = 0; i < 4; i++) {
        __m512d even = _mm512_castps_pd(pairs[2 * i]), odd = _mm512_castps_pd(pairs[2 * i + 1]);
        quads[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(even, odd)) + _mm512_castpd_ps(_mm512_unpackhi_pd(even, odd));
    }
    for (int i = 0; i < 2; i++)
        octets[i] = _mm512_shuffle_f32x4(quads[2 * i], quads[2 * i + 1], 0x88) +
                    _mm512_shuffle_f32x4(quads[2 * i], quads[2 * i + 1], 0xDD);
    return _mm512_shuffle_f32x4(octets[0], octets[1], 0x88) + _mm512_shuffle_f32x4(octets[0], octets[1], 0xDD);
}

static inline void split_words(__m512i words, Floats *lower, Floats *upper) {
    *lower = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
    *upper = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32((int)0xFFFF0000)));
}
static inline void load_words(const uint32_t *x, Floats *lower, Floats *upper) {
    split_words(_mm512_loadu_si512(x), lower, upper);
}

#ifdef BFLOAT16

static inline Floats widened(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
static inline __m256i narrowed(Floats x) { return (__m256i)_mm512_cvtneps_pbh(x); }

static inline Floats rounded(Floats x) { return widened(narrowed(x)); }
static inline Floats load(const uint16_t *x, int count) { return widened(_mm256_maskz_loadu_epi16(first(count), x)); }
static inline void store(uint16_t *y, int count, Floats x) { _mm256_mask_storeu_epi16(y, first(count), narrowed(x)); }

/* AVX512-BF16 multiplies 32 numbers, and adds the products of neighbours. */
#define PAIRED 2
typedef __m512bh Factors;

static inline __mmask32 first_of_pairs(int count) { return count >= 32 ? 0xFFFFFFFF : (1u << count) - 1; }
static inline Factors factors(const uint16_t *x) { return (Factors)_mm512_loadu_si512(x); }
static inline Factors first_factors(const uint16_t *x, int count) {
    return (Factors)_mm512_maskz_loadu_epi16(first_of_pairs(count), x);
}
static inline Factors repeated(const uint16_t *x) {
    int pair;
    memcpy(&pair, x, sizeof pair);
    return (Factors)_mm512_set1_epi32(pair);
}
static inline Factors repeated_alone(const uint16_t *x) { return (Factors)_mm512_set1_epi32(*x); }
static inline Floats multiply_add(Factors a, Factors b, Floats sum) { return _mm512_dpbf16_ps(sum, a, b); }

/* 32 numbers as two registers, even and odd ones: a register of pairs widens to them in one step each. */
static inline void load_halves(const uint16_t *x, int count, Floats *even, Floats *odd) {
    split_words(_mm512_maskz_loadu_epi16(first_of_pairs(count), x), even, odd);
}
static inline void store_halves(uint16_t *y, int count, Floats even, Floats odd) {
    __m512i upper = _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrowed(odd)), 16);
    __m512i pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(narrowed(even)), upper);
    _mm512_mask_storeu_epi16(y, first_of_pairs(count), pairs);
}

#endif
