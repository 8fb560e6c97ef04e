/* Attention of bfloat16 in the tiles of AMX, for attention.c.
 *
 * It takes heads whose size TILE_INPUTS divides. Up to 16 queries are rows of a tile. Their scores come as keys times
 * queries, since keys lie in memory as a tile of inputs has to, and are transposed; their weights, rounded to bfloat16,
 * then multiply the values, which are packed pair by pair for all queries of a task. Keys are taken in blocks of BLOCK
 * from the sequence's first on, whoever asks: so a query's sums are the same whether it is read among others or drawn
 * alone. (Values that a query does not see are multiplied by a weight of zero, so they have to be finite.) */
#pragma once

#include "amx.h"

#define BLOCK TILE_INPUTS

static inline int round_up_to_block(int keys) { return (keys + BLOCK - 1) / BLOCK * BLOCK; }

/* The parts of a thread's scratch memory. */
typedef struct {
    int capacity;    /* keys that there is room for */
    float *scores;   /* (TILE_ROWS, capacity), overwritten by the weights */
    scalar *values;  /* (capacity / 2, dim, 2) */
    scalar *queries; /* (dim / 2, TILE_ROWS, 2) */
} TileScratch;

static int64_t tiled_scratch_size(int max_visible, int dim) {
    int64_t capacity = round_up_to_block(max_visible);
    return TILE_ROWS * capacity + capacity * dim / 2 + TILE_ROWS * dim / 2;
}

static TileScratch tile_scratch(float *scratch, int max_visible, int dim) {
    int capacity = round_up_to_block(max_visible);
    scalar *values = (scalar *)(scratch + (size_t)TILE_ROWS * capacity);
    return (TileScratch){capacity, scratch, values, values + (size_t)capacity * dim};
}

/* y (rows, 16) with `y_stride` from row to row = x (16, 16) transposed. */
static inline void transpose_16x16(const float *x, float *y, int y_stride, int rows) {
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_load_ps(x + 16 * i);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int half = 0; half < 2; half++) {
            __m512d first = _mm512_castps_pd(b[i + half]), second = _mm512_castps_pd(b[i + 2 + half]);
            a[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(first, second));
            a[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(first, second));
        }
    for (int i = 0; i < 4; i++) { /* a[4 * g + i] holds the columns i, 4 + i, 8 + i, 12 + i of the g-th four rows */
        __m512 even = _mm512_shuffle_f32x4(a[i], a[4 + i], 0x88), odd = _mm512_shuffle_f32x4(a[i], a[4 + i], 0xDD);
        __m512 later_even = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0x88);
        __m512 later_odd = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0xDD);
        b[i] = _mm512_shuffle_f32x4(even, later_even, 0x88);
        b[4 + i] = _mm512_shuffle_f32x4(odd, later_odd, 0x88);
        b[8 + i] = _mm512_shuffle_f32x4(even, later_even, 0xDD);
        b[12 + i] = _mm512_shuffle_f32x4(odd, later_odd, 0xDD);
    }
    for (int i = 0; i < rows; i++) _mm512_storeu_ps(y + (size_t)i * y_stride, b[i]);
}

/* The queries in a row: those of a token, head by head, then those of the next. */
static inline const scalar *query_at(const Queries *queries, int index) {
    return queries->q + index / queries->group * queries->q_stride + index % queries->group * queries->dim;
}
static inline scalar *output_at(const Queries *queries, int index) {
    return queries->out + index / queries->group * queries->out_stride + index % queries->group * queries->dim;
}

/* Pack the queries of one tile as a tile of weights is, pairs of channels query by query. A pair is one float wide. */
static void pack_queries(const Queries *queries, int query, int rows, scalar *y) {
    _Alignas(64) float pairs[TILE_ROWS * TILE_ROWS] = {0};
    for (int i = 0; i < queries->dim; i += TILE_INPUTS) {
        for (int row = 0; row < rows; row++)
            memcpy(pairs + row * TILE_ROWS, query_at(queries, query + row) + i, TILE_BYTES);
        transpose_16x16(pairs, (float *)(y + i * TILE_ROWS), TILE_ROWS, TILE_ROWS);
    }
}

/* Pack the values of keys from `start` on, a multiple of BLOCK, as tiles of weights are; zeros beyond the last. */
static void pack_values(const Visible *visible, int start, int end, int dim, scalar *y) {
    __m512i lower, upper;
    uint16_t order[32];
    for (int i = 0; i < 32; i++) order[i] = (uint16_t)(i / 2 + i % 2 * 32);
    lower = _mm512_loadu_si512(order);
    upper = _mm512_add_epi16(lower, _mm512_set1_epi16(16));
    for (int key = start; key < start + round_up_to_block(end - start); key += 2)
        for (int i = 0; i < dim; i += 32, y += 64) {
            __m512i even = key < end ? _mm512_loadu_si512(value_at(visible, key) + i) : _mm512_setzero_si512();
            __m512i odd = key + 1 < end ? _mm512_loadu_si512(value_at(visible, key + 1) + i) : _mm512_setzero_si512();
            _mm512_storeu_si512(y, _mm512_permutex2var_epi16(even, lower, odd));
            _mm512_storeu_si512(y + 32, _mm512_permutex2var_epi16(even, upper, odd));
        }
}

/* TILE_ROWS keys from the `key`-th on as a tile of inputs: where they are, or copied, zeros from `end` on. */
static const scalar *key_tile(const Visible *visible, int key, int end, int dim, scalar *copy, int64_t *stride) {
    int last = key + TILE_ROWS - 1;
    if (last < end && (key >= visible->prefix.count || last < visible->prefix.count)) {
        *stride = key < visible->prefix.count ? visible->prefix.key_stride : visible->own.key_stride;
        return key_at(visible, key);
    }
    *stride = dim;
    for (int i = 0; i < TILE_ROWS; i++)
        if (key + i < end)
            memcpy(copy + i * dim, key_at(visible, key + i), dim * sizeof(scalar));
        else
            memset(copy + i * dim, 0, dim * sizeof(scalar));
    return copy;
}

static inline __mmask16 mask_before(int count) { return count <= 0 ? 0 : lane_mask(count); }

/* e^((score - max) * scale) of the scores from `begin` to `end`, zeros elsewhere among `count`, as bfloat16 in the
 * place of the scores; gives their sum. */
static float exp_and_sum_bfloat16(float *scores, int begin, int end, int count, float scale) {
    Floats max = broadcast(-INFINITY), total = broadcast(0);
    for (int i = 0; i < count; i += LANES) {
        __mmask16 lanes = mask_before(end - i) & ~mask_before(begin - i);
        max = _mm512_mask_max_ps(max, lanes, max, _mm512_loadu_ps(scores + i));
    }
    max = broadcast(reduce_max(max));
    for (int i = 0; i < count; i += 2 * LANES) {
        Floats weights[2];
        for (int half = 0; half < 2; half++) {
            int at = i + half * LANES;
            __mmask16 lanes = mask_before(end - at) & ~mask_before(begin - at);
            Floats weight = exp_floats((_mm512_loadu_ps(scores + at) - max) * broadcast(scale));
            weights[half] = _mm512_maskz_mov_ps(lanes, weight);
            total += weights[half];
        }
        _mm512_storeu_si512((scalar *)scores + i, (__m512i)_mm512_cvtne2ps_pbh(weights[1], weights[0]));
    }
    return reduce_add(total);
}

/* The outputs of a tile of queries: their weights times the first `count` values. */
static void accumulate_tiled_values(const Queries *queries, int query, int rows, int count, const float *inverse_sums,
                                    const TileScratch *tiles) {
    int dim = queries->dim;
    _Alignas(64) float sums[4][TILE_ROWS][TILE_ROWS];
    COMPILER_BARRIER();
    for (int channel = 0; channel < dim; channel += 4 * TILE_ROWS) {
        int columns = dim - channel < 4 * TILE_ROWS ? 2 : 4; /* `dim` is a multiple of 32 */
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int key = 0; key < count; key += BLOCK) {
            const scalar *values = tiles->values + (size_t)key * dim + channel * 2;
            int64_t stride = 2 * dim * sizeof(scalar);
            _tile_loadd(4, (const scalar *)tiles->scores + key, tiles->capacity * sizeof(float));
            _tile_loadd(6, values, stride);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, values + 2 * TILE_ROWS, stride);
            _tile_dpbf16ps(1, 4, 7);
            if (columns == 4) {
                _tile_loadd(6, values + 4 * TILE_ROWS, stride);
                _tile_dpbf16ps(2, 4, 6);
                _tile_loadd(7, values + 6 * TILE_ROWS, stride);
                _tile_dpbf16ps(3, 4, 7);
            }
        }
        _tile_stored(0, sums[0], TILE_BYTES);
        _tile_stored(1, sums[1], TILE_BYTES);
        _tile_stored(2, sums[2], TILE_BYTES);
        _tile_stored(3, sums[3], TILE_BYTES);
        for (int row = 0; row < rows; row++)
            for (int column = 0; column < columns; column++)
                store(output_at(queries, query + row) + channel + column * TILE_ROWS, LANES,
                      load_floats(sums[column][row], LANES) * broadcast(inverse_sums[row]));
    }
}

/* Outputs of `rows` queries from the `query`-th on, TILE_ROWS at most; values are packed from key `start` on. */
static void attend_tile(const Queries *queries, int query, int rows, int start, const TileScratch *tiles) {
    int dim = queries->dim, end = num_visible(queries, (query + rows - 1) / queries->group);
    int count = round_up_to_block(end - start);
    float scale = 1.0f / sqrtf((float)dim), inverse_sums[TILE_ROWS];
    _Alignas(64) float sums[TILE_ROWS * TILE_ROWS];
    scalar copy[TILE_ROWS * dim];
    load_tile_config((int[8]){rows, rows, rows, rows, rows, TILE_ROWS, TILE_ROWS, TILE_ROWS});
    pack_queries(queries, query, rows, tiles->queries);
    for (int key = 0; key < count; key += TILE_ROWS) {
        int64_t stride;
        const scalar *keys = key_tile(&queries->visible, start + key, end, dim, copy, &stride);
        COMPILER_BARRIER();
        _tile_zero(5);
        for (int i = 0; i < dim; i += TILE_INPUTS) {
            _tile_loadd(6, keys + i, stride * sizeof(scalar));
            _tile_loadd(7, tiles->queries + i * TILE_ROWS, TILE_BYTES);
            _tile_dpbf16ps(5, 6, 7);
        }
        _tile_stored(5, sums, TILE_BYTES);
        transpose_16x16(sums, tiles->scores + key, tiles->capacity, rows);
    }
    for (int row = 0; row < rows; row++) {
        int visible = num_visible(queries, (query + row) / queries->group), begin = visible - queries->window;
        if (begin < start) begin = start;
        inverse_sums[row] = 1.0f / exp_and_sum_bfloat16(tiles->scores + (size_t)row * tiles->capacity, begin - start,
                                                        visible - start, count, scale);
    }
    accumulate_tiled_values(queries, query, rows, count, inverse_sums, tiles);
}

static void attend_in_tiles(const Queries *queries, float *scratch, int max_visible) {
    TileScratch tiles = tile_scratch(scratch, max_visible, queries->dim);
    int rows = queries->tokens * queries->group, first_key = num_visible(queries, 0) - queries->window;
    int start = first_key < 0 ? 0 : first_key / BLOCK * BLOCK;
    pack_values(&queries->visible, start, num_visible(queries, queries->tokens - 1), queries->dim, tiles.values);
    for (int query = 0; query < rows; query += TILE_ROWS)
        attend_tile(queries, query, rows - query < TILE_ROWS ? rows - query : TILE_ROWS, start, &tiles);
}
