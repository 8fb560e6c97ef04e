/* Numbers of either dtype in the registers of the processor at hand.
 *
 * The kernels beside this file do the steps of decoding that torch's do slowly for few rows. Each is written once, in
 * the words declared here, and compiled for one set of instructions and one dtype: for float32, and with BFLOAT16 defined
 * for bfloat16, whose numbers are the upper halves of floats and are passed as uint16_t. Sums are float32 in both, and
 * results are rounded where the same torch expression rounds them. A row's result never depends on the rows beside it:
 * each sum runs over its inputs in one fixed order. Every kernel splits its work over `threads` of OpenMP, which is the
 * pool that torch computes with.
 *
 * Each set of instructions has a header with the words for its registers, beside which + - * / work on them directly:
 *   LANES, REGISTERS, Floats    float32 numbers in a register, how many registers there are, a register
 *   repeat(x)                   x in every lane
 *   load_floats(x, count)       the first `count` numbers, zeros beyond; all from LANES on, here and below
 *   load_floats_or(x, count, beyond), store_floats(y, count, x)
 *   kept(x, count)              zeros beyond the first `count` lanes
 *   fused(a, b, sum)            a * b + sum, rounded once
 *   larger, smaller, nearest_integers, times_power_of_two(x, n)
 *   sum_of(x), greatest_of(x)   over the lanes
 *   equal_lanes(a, b)           a bit for every lane
 *   sums_of(x)                  sum_of each of LANES registers, as one register
 *   load_words(x, lower, upper) the halves of LANES words, each the upper half of a float32 number
 *   load, store, rounded        for numbers of the dtype, rounded to it
 * and for products of the dtype:
 *   Factors, PAIRED             a register of numbers to multiply, and how many of them are added up in each lane
 *   factors(x), repeated(x)     WIDE numbers; the first PAIRED ones in every lane
 *   first_factors(x, count)     the first `count` of WIDE numbers, zeros beyond
 *   repeated_alone(x)           the first number in every lane, zeros in the places of those it is paired with
 *   multiply_add(a, b, sum)
 *   load_halves, store_halves   the first `count` of 2 * LANES numbers as two registers, in an order that is theirs
 */
#pragma once

#include <stddef.h>

#ifdef __AVX512F__
#include "avx512.h"
#else
#include "avx2.h"
#endif

#ifdef BFLOAT16
typedef uint16_t number;
#else
typedef float number;

static inline Floats rounded(Floats x) { return x; }
static inline Floats load(const number *x, int count) { return load_floats(x, count); }
static inline void store(number *y, int count, Floats x) { store_floats(y, count, x); }
static inline Floats repeated(const number *x) { return repeat(*x); }
#endif

#ifndef PAIRED
#define PAIRED 1
typedef Floats Factors;

static inline Factors factors(const number *x) { return load(x, LANES); }
static inline Factors first_factors(const number *x, int count) { return load(x, count); }
static inline Floats multiply_add(Factors a, Factors b, Floats sum) { return fused(a, b, sum); }

static inline void load_halves(const number *x, int count, Floats *left, Floats *right) {
    *left = load(x, count);
    *right = count > LANES ? load(x + LANES, count - LANES) : repeat(0);
}
static inline void store_halves(number *y, int count, Floats left, Floats right) {
    store(y, count, left);
    if (count > LANES) store(y + LANES, count - LANES, right);
}
#endif

#define WIDE (LANES * PAIRED) /* numbers in `Factors` */

/* Macros, since gcc takes a function that only does this for one without effect, and leaves its calls out. */
#define PREFETCH(place) _mm_prefetch((const char *)(place), _MM_HINT_T0)
#define PREFETCH_INTO_L2(place) _mm_prefetch((const char *)(place), _MM_HINT_T1)

/* e^x to about one unit in the last place: 2^n times a polynomial on [-ln2/2, ln2/2]. Beyond the limits it is 0 or
 * infinity as it should be; they keep n finite. */
static inline Floats exp_of(Floats x) {
    x = smaller(larger(x, repeat(-110.0f)), repeat(110.0f));
    Floats n = nearest_integers(x * repeat(1.44269504f));
    Floats r = fused(n, repeat(-0.693145752f), x);
    r = fused(n, repeat(-1.42860677e-6f), r);
    static const float terms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    Floats p = repeat(1.0f / 5040);
    for (int i = 0; i < 7; i++) p = fused(p, r, repeat(terms[i]));
    return times_power_of_two(p, n);
}
