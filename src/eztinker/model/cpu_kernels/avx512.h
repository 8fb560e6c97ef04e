/* The functions of simd.h for AVX512: registers of 16 float32 lanes. */
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 16 /* float32 lanes in a register */
#define REGISTERS 32

typedef __m512 Floats;

static inline __mmask16 lane_mask(int count) { return count >= LANES ? 0xFFFF : (__mmask16)((1u << count) - 1); }

static inline Floats broadcast(float x) { return _mm512_set1_ps(x); }
static inline Floats load_floats(const float *x, int count) { return _mm512_maskz_loadu_ps(lane_mask(count), x); }
static inline Floats load_floats_or(const float *x, int count, Floats beyond) {
    return _mm512_mask_loadu_ps(beyond, lane_mask(count), x);
}
static inline void store_floats(float *y, int count, Floats x) { _mm512_mask_storeu_ps(y, lane_mask(count), x); }
static inline Floats masked(Floats x, int count) { return _mm512_maskz_mov_ps(lane_mask(count), x); }

static inline Floats fmadd(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
static inline Floats maximum(Floats a, Floats b) { return _mm512_max_ps(a, b); }
static inline Floats minimum(Floats a, Floats b) { return _mm512_min_ps(a, b); }
static inline Floats round_nearest(Floats x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }
static inline Floats scalef(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }
static inline int equal_mask(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static inline float reduce_add(Floats x) { return _mm512_reduce_add_ps(x); }
static inline float reduce_max(Floats x) { return _mm512_reduce_max_ps(x); }

static inline Floats reduce_add_each(const Floats *x) {
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

static inline Floats to_float32(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
static inline __m256i to_bfloat16(Floats x) { return (__m256i)_mm512_cvtneps_pbh(x); }

static inline Floats round_to_dtype(Floats x) { return to_float32(to_bfloat16(x)); }
static inline Floats load(const uint16_t *x, int count) {
    return to_float32(_mm256_maskz_loadu_epi16(lane_mask(count), x));
}
static inline void store(uint16_t *y, int count, Floats x) {
    _mm256_mask_storeu_epi16(y, lane_mask(count), to_bfloat16(x));
}

/* AVX512-BF16 multiplies 32 scalars, and adds the products of neighbours. */
#define PAIRED 2
typedef __m512bh Factors;

static inline __mmask32 pair_mask(int count) { return count >= 32 ? 0xFFFFFFFF : (1u << count) - 1; }
static inline Factors load_factors(const uint16_t *x) { return (Factors)_mm512_loadu_si512(x); }
static inline Factors load_factors_masked(const uint16_t *x, int count) {
    return (Factors)_mm512_maskz_loadu_epi16(pair_mask(count), x);
}
static inline Factors broadcast_factors(const uint16_t *x) {
    int pair;
    memcpy(&pair, x, sizeof pair);
    return (Factors)_mm512_set1_epi32(pair);
}
static inline Factors broadcast_single(const uint16_t *x) { return (Factors)_mm512_set1_epi32(*x); }
static inline Floats dot_accumulate(Factors a, Factors b, Floats sum) { return _mm512_dpbf16_ps(sum, a, b); }

/* 32 scalars as two registers, even and odd ones: a register of pairs widens to them in one step each. */
static inline void load_halves(const uint16_t *x, int count, Floats *even, Floats *odd) {
    split_words(_mm512_maskz_loadu_epi16(pair_mask(count), x), even, odd);
}
static inline void store_halves(uint16_t *y, int count, Floats even, Floats odd) {
    __m512i upper = _mm512_slli_epi32(_mm512_cvtepu16_epi32(to_bfloat16(odd)), 16);
    __m512i pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(to_bfloat16(even)), upper);
    _mm512_mask_storeu_epi16(y, pair_mask(count), pairs);
}

#endif
