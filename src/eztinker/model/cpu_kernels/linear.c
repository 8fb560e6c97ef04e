/* Products with frozen weights, which are laid out once in the order that they are read. */
#include "numbers.h"

#define OUTPUTS (2 * LANES)              /* outputs that are computed together, two registers */
#define ROWS (REGISTERS * 3 / 8)         /* rows that are: their sums of a chunk take three registers of four */
#define CHUNK (128 * PAIRED)             /* inputs that are summed apart: a sum of sums rounds less than one long sum */
#define STEP (2 * WIDE * sizeof(number)) /* bytes of weights that are multiplied at once */
#define AHEAD 2048                       /* bytes of weights that are asked for ahead of the current ones */

static inline int num_blocks(int outputs) { return (outputs + OUTPUTS - 1) / OUTPUTS; }

/* Numbers that the packed form of a weight takes. */
int64_t packed_size(int outputs, int inputs) { return (int64_t)num_blocks(outputs) * OUTPUTS * inputs; }

/* Lay a weight (outputs, inputs) out as (blocks, inputs / PAIRED, OUTPUTS, PAIRED): what one instruction multiplies
 * lies together, in the order it is read. Outputs beyond the last are zeros. PAIRED divides `inputs`. */
void pack_weight(const number *weight, number *packed, int outputs, int inputs, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int block = 0; block < num_blocks(outputs); block++) {
        number *to = packed + (size_t)block * OUTPUTS * inputs;
        for (int i = 0; i < inputs; i += PAIRED)
            for (int output = block * OUTPUTS; output < (block + 1) * OUTPUTS; output++)
                for (int pair = 0; pair < PAIRED; pair++)
                    *to++ = output < outputs ? weight[(size_t)output * inputs + i + pair] : 0;
    }
}

/* One linear layer: where its inputs are, and what becomes of its sums. */
typedef struct {
    const number *packed;
    const number *addend; /* added to the sums, if not null */
    int64_t addend_stride; /* numbers from row to row; 0 for a bias */
    float scale;
    int outputs, inputs;
} Layer;

/* One block of outputs for `rows` rows, a constant in every use so that the sums of a chunk stay in registers.
 *
 * The weights of a block come from memory once, for the first of its tiles, and from a cache for the others. So where
 * there are several, each asks for its part of the next block: memory then works throughout, not in turns with the
 * arithmetic. This is tile `part` of `parts`. */
static inline __attribute__((always_inline)) void linear_tile(const int rows, const Layer *layer, int block, int part,
                                                              int parts, const number *x, const number *addend,
                                                              number *y) {
    Floats low[ROWS], high[ROWS];
    for (int r = 0; r < rows; r++) low[r] = high[r] = repeat(0);
    int inputs = layer->inputs, start = block * OUTPUTS, left = layer->outputs - start;
    const number *weight = layer->packed + (size_t)block * OUTPUTS * inputs;
    const char *next = (const char *)(weight + (size_t)OUTPUTS * inputs) + part * (STEP / parts) * (inputs / PAIRED);
    for (int chunk = 0; chunk < inputs; chunk += CHUNK) {
        Floats chunk_low[ROWS], chunk_high[ROWS];
        for (int r = 0; r < rows; r++) chunk_low[r] = chunk_high[r] = repeat(0);
        int end = chunk + CHUNK < inputs ? chunk + CHUNK : inputs;
        for (int i = chunk; i < end; i += PAIRED, weight += 2 * WIDE) {
            if (parts == 1)
                for (size_t line = 0; line < STEP; line += 64) PREFETCH((const char *)weight + AHEAD + line);
            else
                PREFETCH_INTO_L2(next), next += STEP / parts;
            Factors weights_low = factors(weight), weights_high = factors(weight + WIDE);
#pragma GCC unroll 12
            for (int r = 0; r < rows; r++) {
                Factors input = repeated(x + (size_t)r * inputs + i);
                chunk_low[r] = multiply_add(weights_low, input, chunk_low[r]);
                chunk_high[r] = multiply_add(weights_high, input, chunk_high[r]);
            }
        }
        for (int r = 0; r < rows; r++) {
            low[r] += chunk_low[r];
            high[r] += chunk_high[r];
        }
    }
    int in_high = left > LANES ? left - LANES : 0;
    Floats scale = repeat(layer->scale);
    for (int r = 0; r < rows; r++) {
        if (addend) {
            const number *more = addend + r * layer->addend_stride + start;
            low[r] = fused(low[r], scale, load(more, left));
            high[r] = fused(high[r], scale, load(more + LANES, in_high));
        }
        store(y + (size_t)r * layer->outputs + start, left, low[r]);
        store(y + (size_t)r * layer->outputs + start + LANES, in_high, high[r]);
    }
}

static void linear_layer(const Layer *layer, const number *x, number *y, int rows, int threads) {
    if (!rows) return;
    int num_tiles = (rows + ROWS - 1) / ROWS, tile = (rows + num_tiles - 1) / num_tiles;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int block = 0; block < num_blocks(layer->outputs); block++)
        for (int row = 0; row < rows; row += tile) {
            const number *in = x + (size_t)row * layer->inputs;
            const number *addend = layer->addend ? layer->addend + row * layer->addend_stride : NULL;
            number *out = y + (size_t)row * layer->outputs;
            switch (rows - row < tile ? rows - row : tile) {
#define TILE(count) \
    case count: linear_tile(count, layer, block, row / tile, num_tiles, in, addend, out); break;
                TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
#if ROWS > 6
                TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
#endif
            }
        }
}

/* y (rows, outputs) = x (rows, inputs) times the weight transposed, plus the bias (outputs,) unless it is null. */
void linear(const number *packed, const number *bias, const number *x, number *y, int rows, int outputs, int inputs,
            int threads) {
    Layer layer = {packed, bias, 0, 1.0f, outputs, inputs};
    linear_layer(&layer, x, y, rows, threads);
}

/* y += scale * x times the weight transposed. */
void add_linear(const number *packed, const number *x, number *y, int rows, int outputs, int inputs, float scale,
                int threads) {
    Layer layer = {packed, y, outputs, scale, outputs, inputs};
    linear_layer(&layer, x, y, rows, threads);
}
