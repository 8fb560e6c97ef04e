/* The tiles of AMX: eight registers of 16 rows of 64 bytes each. One instruction multiplies a tile of inputs, 16 rows of 32
 * numbers of bfloat16, with a tile of weights, 16 pairs of inputs for 16 outputs, and adds the products to a tile of sums,
 * 16 rows of 16 float32 numbers. */
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#define TILE_ROWS 16
#define TILE_BYTES 64
#define TILE_INPUTS 32 /* that one instruction multiplies */

/* gcc does not know that tiles are loaded from memory, and might put off what is written there. */
#define MEMORY_WAS_WRITTEN() __asm__ volatile("" : : : "memory")

/* Ask Linux for the tiles, whose state it saves for processes that have asked; true if this one may use them. */
static inline int may_use_tiles(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

/* Give this thread's tiles so many rows each. */
static inline void set_up_tiles(const int tile_rows[8]) {
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
