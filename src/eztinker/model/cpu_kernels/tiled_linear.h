/* Products of bfloat16 in the tiles of AMX, for linear.c.
 *
 * Tiles of weights are what `pack_weight` gives, for AVX512-BF16 too. The sums of 32 rows and 32 outputs take four of
 * the eight tiles, their inputs and weights two each: every tile that is loaded is multiplied twice. It takes layers
 * whose inputs TILE_INPUTS divides. */
#pragma once

#include "amx.h"

#define TILED_ROWS (2 * TILE_ROWS)

/* Tiles for `rows` of TILED_ROWS rows: sums 0 to 3, inputs 4 and 5, weights 6 and 7. */
static inline void configure_tiles(int rows) {
    int upper = rows < TILE_ROWS ? rows : TILE_ROWS, lower = rows - upper;
    load_tile_config((int[8]){upper, upper, lower, lower, upper, lower, TILE_ROWS, TILE_ROWS});
}

/* The sums (rows, OUTPUTS of linear.c) of TILED_ROWS rows at most, for which the tiles are configured, with one block
 * of weights. `next` is what to prefetch meanwhile, `next_step` bytes of it for each TILE_INPUTS. */
ALWAYS_INLINE void multiply_tiles(const int both, const char *x, int64_t x_bytes, const char *weight, int inputs,
                                  const char *next, size_t next_step, float *sums) {
    const int64_t weight_bytes = 2 * TILE_BYTES, sum_bytes = OUTPUTS * sizeof(float);
    _tile_zero(0);
    _tile_zero(1);
    if (both) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int i = 0; i < inputs; i += TILE_INPUTS) {
        for (size_t line = 0; line < next_step; line += 64) PREFETCH_L2(next + line);
        next += next_step;
        _tile_loadd(6, weight, weight_bytes);
        _tile_loadd(7, weight + TILE_BYTES, weight_bytes);
        _tile_loadd(4, x, x_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (both) {
            _tile_loadd(5, x + TILE_ROWS * x_bytes, x_bytes);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        x += TILE_BYTES;
        weight += TILE_ROWS * weight_bytes;
    }
    _tile_stored(0, sums, sum_bytes);
    _tile_stored(1, sums + LANES, sum_bytes);
    if (both) {
        _tile_stored(2, sums + TILE_ROWS * OUTPUTS, sum_bytes);
        _tile_stored(3, sums + TILE_ROWS * OUTPUTS + LANES, sum_bytes);
    }
}
