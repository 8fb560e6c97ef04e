/* The functions of simd.h for AVX2 with FMA: registers of 8 float32 lanes. */
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 8 /* float32 lanes in a register */
#define REGISTERS 16

typedef __m256 Floats;

static inline __m256i lane_mask(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline Floats broadcast(float x) { return _mm256_set1_ps(x); }
static inline Floats load_floats(const float *x, int count) {
    return count >= LANES ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, lane_mask(count));
}
static inline Floats load_floats_or(const float *x, int count, Floats beyond) {
    return _mm256_blendv_ps(beyond, load_floats(x, count), _mm256_castsi256_ps(lane_mask(count)));
}
static inline void store_floats(float *y, int count, Floats x) {
    if (count >= LANES)
        _mm256_storeu_ps(y, x);
    else
        _mm256_maskstore_ps(y, lane_mask(count), x);
}
static inline Floats masked(Floats x, int count) { return _mm256_and_ps(x, _mm256_castsi256_ps(lane_mask(count))); }

static inline Floats fmadd(Floats a, Floats b, Floats sum) { return _mm256_fmadd_ps(a, b, sum); }
static inline Floats maximum(Floats a, Floats b) { return _mm256_max_ps(a, b); }
static inline Floats minimum(Floats a, Floats b) { return _mm256_min_ps(a, b); }
static inline Floats round_nearest(Floats x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline Floats power_of_two(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
/* x * 2^n in two steps, since 2^n may be beyond float32 where the result is not, or is a denormal number. */
static inline Floats scalef(Floats x, Floats n) {
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return x * power_of_two(half) * power_of_two(_mm256_sub_epi32(whole, half));
}
static inline int equal_mask(Floats a, Floats b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }
static inline float reduce_add(Floats x) {
    __m128 quad = _mm256_castps256_ps128(x) + _mm256_extractf128_ps(x, 1);
    __m128 pair = quad + _mm_movehl_ps(quad, quad);
    return _mm_cvtss_f32(pair) + _mm_cvtss_f32(_mm_movehdup_ps(pair));
}
static inline float reduce_max(Floats x) {
    __m128 quad = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 pair = _mm_max_ps(quad, _mm_movehl_ps(quad, quad));
    return _mm_cvtss_f32(_mm_max_ps(pair, _mm_movehdup_ps(pair)));
}

static inline Floats reduce_add_each(const Floats *x) {
    __m256 pairs[4], quads[2];
    for (int i = 0; i < 4; i++)
        pairs[i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]) + _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    for (int i = 0; i < 2; i++) {
        __m256d even = _mm256_castps_pd(pairs[2 * i]), odd = _mm256_castps_pd(pairs[2 * i + 1]);
        quads[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(even, odd)) + _mm256_castpd_ps(_mm256_unpackhi_pd(even, odd));
    }
    return _mm256_permute2f128_ps(quads[0], quads[1], 0x20) + _mm256_permute2f128_ps(quads[0], quads[1], 0x31);
}

static inline void load_words(const uint32_t *x, Floats *lower, Floats *upper) {
    __m256i words = _mm256_loadu_si256((const __m256i *)x);
    *lower = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
    *upper = _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32((int)0xFFFF0000)));
}

#ifdef BFLOAT16

static inline Floats to_float32(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}

/* To the nearest, ties to even; NaN stays NaN, whose mantissa adding the half could carry into the exponent. */
static inline __m128i to_bfloat16(Floats x) {
    __m256i bits = _mm256_castps_si256(x), is_odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i nearest = _mm256_add_epi32(bits, _mm256_add_epi32(is_odd, _mm256_set1_epi32(0x7FFF)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(1 << 22));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m256i upper = _mm256_srli_epi32(_mm256_blendv_epi8(nearest, quiet, is_nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
}

static inline Floats round_to_dtype(Floats x) { return to_float32(to_bfloat16(x)); }
static inline Floats load(const uint16_t *x, int count) {
    if (count >= LANES) return to_float32(_mm_loadu_si128((const __m128i *)x));
    uint16_t there[LANES] = {0};
    memcpy(there, x, count * sizeof *x);
    return to_float32(_mm_loadu_si128((const __m128i *)there));
}
static inline void store(uint16_t *y, int count, Floats x) {
    uint16_t whole[LANES];
    _mm_storeu_si128((__m128i *)whole, to_bfloat16(x));
    memcpy(y, whole, (count < LANES ? count : LANES) * sizeof *y);
}
static inline Floats broadcast_factors(const uint16_t *x) {
    return _mm256_castsi256_ps(_mm256_set1_epi32((int)*x << 16));
}

#endif
