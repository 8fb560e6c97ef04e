/* Attention of bfloat16 in the tiles of AMX, for attention.c.
 *
 * It takes heads whose size TILE_INPUTS divides. Up to 16 queries are rows of a tile. Their scores come as keys times queries, since keys lie in memory as a tile of
 * inputs has to, and are transposed; their weights, rounded to bfloat16, then multiply the values, which are laid out
 * pair by pair for all queries of a task. Keys are taken in blocks of BLOCK from the sequence's first on, whoever asks:
 * so a query's sums are the same whether it is read among others or drawn alone. (Values that a query does not see are
 * multiplied by a weight of zero, so they have to be finite.) */
#pragma once

#include "amx.h"

#define BLOCK TILE_INPUTS

static inline int whole_blocks(int keys) { return (keys + BLOCK - 1) / BLOCK * BLOCK; }

/* A thread's own memory, and where its parts begin. */
typedef struct {
    int room;        /* keys that there is room for */
    float *scores;   /* (TILE_ROWS, room), in whose place the weights come */
    number *values;  /* (room / 2, dim, 2) */
    number *queries; /* (dim / 2, TILE_ROWS, 2) */
} Tiles;

static int64_t tiled_scratch_size(int most_seen, int dim) {
    int64_t room = whole_blocks(most_seen);
    return TILE_ROWS * room + room * dim / 2 + TILE_ROWS * dim / 2;
}

static Tiles tiles_in(float *scratch, int most_seen, int dim) {
    int room = whole_blocks(most_seen);
    number *values = (number *)(scratch + (size_t)TILE_ROWS * room);
    return (Tiles){room, scratch, values, values + (size_t)room * dim};
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
static inline const number *query_of(const Queries *queries, int index) {
    return queries->q + index / queries->group * queries->q_stride + index % queries->group * queries->dim;
}
static inline number *output_of(const Queries *queries, int index) {
    return queries->out + index / queries->group * queries->out_stride + index % queries->group * queries->dim;
}

/* Lay the queries of one tile out as a tile of weights is, pairs of channels query by query: a pair is as wide as a float. */
static void lay_out_queries(const Queries *queries, int query, int rows, number *y) {
    _Alignas(64) float pairs[TILE_ROWS * TILE_ROWS] = {0};
    for (int i = 0; i < queries->dim; i += TILE_INPUTS) {
        for (int row = 0; row < rows; row++)
            memcpy(pairs + row * TILE_ROWS, query_of(queries, query + row) + i, TILE_BYTES);
        transpose_16x16(pairs, (float *)(y + i * TILE_ROWS), TILE_ROWS, TILE_ROWS);
    }
}

/* Lay the values of keys from `start` on, a multiple of BLOCK, out as tiles of weights are; zeros beyond the last. */
static void lay_out_values(const Seen *seen, int start, int end, int dim, number *y) {
    __m512i lower, upper;
    uint16_t order[32];
    for (int i = 0; i < 32; i++) order[i] = (uint16_t)(i / 2 + i % 2 * 32);
    lower = _mm512_loadu_si512(order);
    upper = _mm512_add_epi16(lower, _mm512_set1_epi16(16));
    for (int key = start; key < start + whole_blocks(end - start); key += 2)
        for (int i = 0; i < dim; i += 32, y += 64) {
            __m512i even = key < end ? _mm512_loadu_si512(value_of(seen, key) + i) : _mm512_setzero_si512();
            __m512i odd = key + 1 < end ? _mm512_loadu_si512(value_of(seen, key + 1) + i) : _mm512_setzero_si512();
            _mm512_storeu_si512(y, _mm512_permutex2var_epi16(even, lower, odd));
            _mm512_storeu_si512(y + 32, _mm512_permutex2var_epi16(even, upper, odd));
        }
}

/* TILE_ROWS keys from the `key`-th on as a tile of inputs: where they are, or copied, zeros from `end` on. */
static const number *keys_from(const Seen *seen, int key, int end, int dim, number *copy, int64_t *stride) {
    int last = key + TILE_ROWS - 1;
    if (last < end && (key >= seen->before.count || last < seen->before.count)) {
        *stride = key < seen->before.count ? seen->before.key_stride : seen->own.key_stride;
        return key_of(seen, key);
    }
    *stride = dim;
    for (int i = 0; i < TILE_ROWS; i++)
        if (key + i < end)
            memcpy(copy + i * dim, key_of(seen, key + i), dim * sizeof(number));
        else
            memset(copy + i * dim, 0, dim * sizeof(number));
    return copy;
}

static inline __mmask16 lanes_before(int count) { return count <= 0 ? 0 : first(count); }

/* e^((score - greatest) * scale) of the scores from `begin` to `end`, zeros elsewhere among `count`, as bfloat16 in the
 * place of the scores; gives their sum. */
static float weigh(float *scores, int begin, int end, int count, float scale) {
    Floats most = repeat(-INFINITY), total = repeat(0);
    for (int i = 0; i < count; i += LANES) {
        __mmask16 lanes = lanes_before(end - i) & ~lanes_before(begin - i);
        most = _mm512_mask_max_ps(most, lanes, most, _mm512_loadu_ps(scores + i));
    }
    most = repeat(greatest_of(most));
    for (int i = 0; i < count; i += 2 * LANES) {
        Floats weights[2];
        for (int half = 0; half < 2; half++) {
            int at = i + half * LANES;
            __mmask16 lanes = lanes_before(end - at) & ~lanes_before(begin - at);
            Floats weight = exp_of((_mm512_loadu_ps(scores + at) - most) * repeat(scale));
            weights[half] = _mm512_maskz_mov_ps(lanes, weight);
            total += weights[half];
        }
        _mm512_storeu_si512((number *)scores + i, (__m512i)_mm512_cvtne2ps_pbh(weights[1], weights[0]));
    }
    return sum_of(total);
}

/* The outputs of a tile of queries: their weights times the first `count` values. */
static void add_tiled_values(const Queries *queries, int query, int rows, int count, const float *shares,
                             const Tiles *tiles) {
    int dim = queries->dim;
    _Alignas(64) float sums[4][TILE_ROWS][TILE_ROWS];
    MEMORY_WAS_WRITTEN();
    for (int channel = 0; channel < dim; channel += 4 * TILE_ROWS) {
        int columns = dim - channel < 4 * TILE_ROWS ? 2 : 4; /* `dim` is a multiple of 32 */
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int key = 0; key < count; key += BLOCK) {
            const number *values = tiles->values + (size_t)key * dim + channel * 2;
            int64_t stride = 2 * dim * sizeof(number);
            _tile_loadd(4, (const number *)tiles->scores + key, tiles->room * sizeof(float));
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
                store(output_of(queries, query + row) + channel + column * TILE_ROWS, LANES,
                      load_floats(sums[column][row], LANES) * repeat(shares[row]));
    }
}

/* Outputs of `rows` queries from the `query`-th on, TILE_ROWS at most; `start` is the key whose values were laid out first. */
static void attend_tile(const Queries *queries, int query, int rows, int start, const Tiles *tiles) {
    int dim = queries->dim, end = num_seen(queries, (query + rows - 1) / queries->group);
    int count = whole_blocks(end - start);
    float scale = 1.0f / sqrtf((float)dim), shares[TILE_ROWS];
    _Alignas(64) float sums[TILE_ROWS * TILE_ROWS];
    number copy[TILE_ROWS * dim];
    set_up_tiles((int[8]){rows, rows, rows, rows, rows, TILE_ROWS, TILE_ROWS, TILE_ROWS});
    lay_out_queries(queries, query, rows, tiles->queries);
    for (int key = 0; key < count; key += TILE_ROWS) {
        int64_t stride;
        const number *keys = keys_from(&queries->seen, start + key, end, dim, copy, &stride);
        MEMORY_WAS_WRITTEN();
        _tile_zero(5);
        for (int i = 0; i < dim; i += TILE_INPUTS) {
            _tile_loadd(6, keys + i, stride * sizeof(number));
            _tile_loadd(7, tiles->queries + i * TILE_ROWS, TILE_BYTES);
            _tile_dpbf16ps(5, 6, 7);
        }
        _tile_stored(5, sums, TILE_BYTES);
        transpose_16x16(sums, tiles->scores + key, tiles->room, rows);
    }
    for (int row = 0; row < rows; row++) {
        int seen = num_seen(queries, (query + row) / queries->group), begin = seen - queries->window;
        if (begin < start) begin = start;
        shares[row] = 1.0f / weigh(tiles->scores + (size_t)row * tiles->room, begin - start, seen - start, count, scale);
    }
    add_tiled_values(queries, query, rows, count, shares, tiles);
}

static void attend_in_tiles(const Queries *queries, float *scratch, int most_seen) {
    Tiles tiles = tiles_in(scratch, most_seen, queries->dim);
    int rows = queries->tokens * queries->group, first_key = num_seen(queries, 0) - queries->window;
    int start = first_key < 0 ? 0 : first_key / BLOCK * BLOCK;
    lay_out_values(&queries->seen, start, num_seen(queries, queries->tokens - 1), queries->dim, tiles.values);
    for (int query = 0; query < rows; query += TILE_ROWS)
        attend_tile(queries, query, rows - query < TILE_ROWS ? rows - query : TILE_ROWS, start, &tiles);
}
