/* Products of bfloat16 in the tiles of AMX, which are 16 rows of 64 bytes.
 *
 * A tile of inputs is 16 rows of 32 numbers, a tile of weights 16 pairs of inputs for 16 outputs, as `pack_weight` lays
 * them out for AVX512-BF16 too, and a tile of sums 16 rows of 16 outputs. The sums of 32 rows and 32 outputs take four of
 * the eight tiles, their inputs and weights two each: every tile that is loaded is multiplied twice. */
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#define TILE_ROWS 16
#define TILE_BYTES 64
#define TILE_INPUTS 32 /* inputs that one instruction multiplies; takes layers whose inputs these divide */
#define TILED_ROWS (2 * TILE_ROWS)

/* Ask Linux for the tiles, whose state it saves for processes that have asked; true if this one may use them. */
static inline int may_use_tiles(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

/* Tell this thread's tiles how many of TILED_ROWS rows there are: sums 0 to 3, inputs 4 and 5, weights 6 and 7. */
static inline void configure_tiles(int rows) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    int upper = rows < TILE_ROWS ? rows : TILE_ROWS, lower = rows - upper;
    const int tile_rows[8] = {upper, upper, lower, lower, upper, lower, TILE_ROWS, TILE_ROWS};
    for (int tile = 0; tile < 8; tile++) {
        config.rows[tile] = (uint8_t)tile_rows[tile];
        config.row_bytes[tile] = tile_rows[tile] ? TILE_BYTES : 0; /* a tile without rows is not one */
    }
    __asm__ volatile("" : : "r"(&config) : "memory"); /* gcc takes it that only the first 8 bytes are read */
    _tile_loadconfig(&config);
}

/* The sums (rows, OUTPUTS of linear.c) of TILED_ROWS rows at most, for which the tiles are configured, with one block of
 * weights. `next` is what to ask memory for meanwhile, `next_step` bytes of it for each TILE_INPUTS. */
static inline __attribute__((always_inline)) void multiply_tiles(const int both, const char *x, int64_t x_bytes,
                                                                 const char *weight, int inputs, const char *next,
                                                                 size_t next_step, float *sums) {
    const int64_t weight_bytes = 2 * TILE_BYTES, sum_bytes = OUTPUTS * sizeof(float);
    _tile_zero(0);
    _tile_zero(1);
    if (both) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int i = 0; i < inputs; i += TILE_INPUTS) {
        for (size_t line = 0; line < next_step; line += 64) PREFETCH_INTO_L2(next + line);
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
