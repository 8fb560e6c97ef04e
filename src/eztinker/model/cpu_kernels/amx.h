/* The tiles of AMX: eight registers of 16 rows of 64 bytes each. One instruction multiplies a tile of inputs, 16 rows
 * of 32 bfloat16, with a tile of weights, 16 pairs of inputs for 16 outputs, and adds the products to a tile of sums,
 * 16 rows of 16 float32. */
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#define TILE_ROWS 16
#define TILE_BYTES 64
#define TILE_INPUTS 32 /* inputs of a row that one instruction multiplies */

/* gcc does not know that tiles are loaded from memory, and might put off what is written there. */
#define COMPILER_BARRIER() __asm__ volatile("" : : : "memory")

/* Ask Linux for the tiles, whose state it saves for processes that have asked; true if this one may use them. */
static inline int request_tiles(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

/* Configure this thread's tiles with so many rows each. */
static inline void load_tile_config(const int tile_rows[8]) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        config.rows[tile] = (uint8_t)tile_rows[tile];
        config.row_bytes[tile] = tile_rows[tile] ? TILE_BYTES : 0; /* a tile without rows is not one */
    }
    __asm__ volatile("" : : "r"(&config) : "memory"); /* gcc takes it that only the first 8 bytes are read */
    _tile_loadconfig(&config);
}
