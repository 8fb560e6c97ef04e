/* Vectors of either dtype: the vocabulary that every kernel is written in.
 *
 * The kernels beside this file do the steps of decoding that torch's do slowly for few rows. Each is written once, in
 * the functions declared here, and compiled for one set of instructions and one dtype: for float32, and with BFLOAT16
 * defined for bfloat16, whose scalars are the upper halves of floats and are passed as uint16_t. Sums are float32 in
 * both, and results are rounded where the same torch expression rounds them. A row's result never depends on the rows
 * beside it: each sum runs over its inputs in one fixed order. Every kernel splits its work over `threads` of OpenMP,
 * which is the pool that torch computes with.
 *
 * Each set of instructions has a header with these functions, beside which + - * / work on vectors directly:
 *   LANES, REGISTERS, Floats    float32 lanes in a register, how many registers there are, a register
 *   broadcast(x)                x in every lane
 *   lane_mask(count)            the first `count` lanes, all from LANES on
 *   load_floats(x, count)       the first `count` floats, zeros beyond; all from LANES on, here and below
 *   load_floats_or(x, count, beyond), store_floats(y, count, x)
 *   masked(x, count)            zeros beyond the first `count` lanes
 *   fmadd(a, b, sum)            a * b + sum, rounded once
 *   maximum, minimum, round_nearest
 *   scalef(x, n)                x * 2^n
 *   reduce_add, reduce_max      over the lanes
 *   reduce_add_each(x)          reduce_add of each of LANES registers, as one register
 *   equal_mask(a, b)            a bit for every lane
 *   load_words(x, lower, upper) the halves of LANES words, each the upper half of a float32
 *   load, store                 scalars of the dtype
 *   round_to_dtype(x)           rounded to the dtype, as float32
 *   to_float32, to_bfloat16     with BFLOAT16
 * and for products of the dtype:
 *   Factors, PAIRED             a register of scalars to multiply, and how many of them are added up in each lane
 *   load_factors(x)             WIDE scalars
 *   load_factors_masked(x, count)  the first `count` of WIDE scalars, zeros beyond
 *   broadcast_factors(x)        the first PAIRED scalars in every lane
 *   broadcast_single(x)         the first scalar in every lane, zeros in the places of those it is paired with
 *   dot_accumulate(a, b, sum)   sum + the dot product of each lane's PAIRED factors
 *   load_halves, store_halves   the first `count` of 2 * LANES scalars as two registers, in an order that is theirs
 */
#pragma once

#include <stddef.h>

/* For functions that are compiled once for every value of a constant argument. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

#ifdef __AVX512F__
#include "avx512.h"
#else
#include "avx2.h"
#endif

#ifdef BFLOAT16
typedef uint16_t scalar;
#else
typedef float scalar;

static inline Floats round_to_dtype(Floats x) { return x; }
static inline Floats load(const scalar *x, int count) { return load_floats(x, count); }
static inline void store(scalar *y, int count, Floats x) { store_floats(y, count, x); }
static inline Floats broadcast_factors(const scalar *x) { return broadcast(*x); }
#endif

#ifndef PAIRED
#define PAIRED 1
typedef Floats Factors;

static inline Factors load_factors(const scalar *x) { return load(x, LANES); }
static inline Factors load_factors_masked(const scalar *x, int count) { return load(x, count); }
static inline Floats dot_accumulate(Factors a, Factors b, Floats sum) { return fmadd(a, b, sum); }

static inline void load_halves(const scalar *x, int count, Floats *left, Floats *right) {
    *left = load(x, count);
    *right = count > LANES ? load(x + LANES, count - LANES) : broadcast(0);
}
static inline void store_halves(scalar *y, int count, Floats left, Floats right) {
    store(y, count, left);
    if (count > LANES) store(y + LANES, count - LANES, right);
}
#endif

#define WIDE (LANES * PAIRED) /* scalars in `Factors` */

/* Macros, since gcc takes a function that only does this for one without effect, and leaves its calls out. */
#define PREFETCH(place) _mm_prefetch((const char *)(place), _MM_HINT_T0)
#define PREFETCH_L2(place) _mm_prefetch((const char *)(place), _MM_HINT_T1)

/* e^x to about one unit in the last place: 2^n times a polynomial on [-ln2/2, ln2/2]. Beyond the limits it is 0 or
 * infinity as it should be; they keep n finite. */
static inline Floats exp_floats(Floats x) {
    x = minimum(maximum(x, broadcast(-110.0f)), broadcast(110.0f));
    Floats n = round_nearest(x * broadcast(1.44269504f));
    Floats r = fmadd(n, broadcast(-0.693145752f), x);
    r = fmadd(n, broadcast(-1.42860677e-6f), r);
    static const float terms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    Floats p = broadcast(1.0f / 5040);
    for (int i = 0; i < 7; i++) p = fmadd(p, r, broadcast(terms[i]));
    return scalef(p, n);
}
