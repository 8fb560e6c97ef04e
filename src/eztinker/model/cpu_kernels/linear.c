/* Products with frozen weights, which are laid out once in the order that they are read. */
#include "kernels.h"

#define OUTPUTS (2 * LANES)           /* outputs that are computed together, two registers */
#define ROWS (REGISTERS * 3 / 8)      /* rows that are too: their sums of a chunk take three registers of four */
#define PANEL_ROWS 256                /* rows whose inputs and outputs stay in a cache while all weights pass by */
#define CHUNK (128 * PAIRED)          /* inputs that are summed apart: a sum of sums rounds less than one long sum */
#define PREFETCH_AHEAD 2048           /* bytes from the current weights to those that are prefetched */
#define PACKED_IN_WORDS (PAIRED == 1) /* how weights of 16 bits are packed: two outputs to a word, or as `Factors` */

#ifdef TILED
#include "tiled_linear.h"
#define WHOLE_TILES TILED_ROWS
#define INPUT_MULTIPLE TILE_INPUTS
#else
#define WHOLE_TILES ROWS
#define INPUT_MULTIPLE PAIRED
#endif

static inline int num_blocks(int outputs) { return (outputs + OUTPUTS - 1) / OUTPUTS; }
static inline int num_steps(int inputs) { return (inputs + PAIRED - 1) / PAIRED; } /* of PAIRED inputs, or fewer */
static inline size_t weight_size(int narrow) { return narrow ? sizeof(uint16_t) : sizeof(float); }

/* Bytes that the packed form of a weight takes. */
int64_t packed_size(int outputs, int inputs, int narrow) {
    return (int64_t)num_blocks(outputs) * OUTPUTS * num_steps(inputs) * PAIRED * weight_size(narrow);
}

static inline uint16_t upper_half(scalar x) {
#ifdef BFLOAT16
    return x;
#else
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits >> 16;
#endif
}

/* Lay a weight (outputs, inputs) out as (blocks, inputs / PAIRED, OUTPUTS, PAIRED): what one instruction multiplies
 * lies together, in the order it is read. Outputs and inputs beyond the last are zeros.
 *
 * Narrow weights take 16 bits, the upper halves of float32 numbers whose lower halves are zeros: their products are the
 * same, and half as much comes from memory. PACKED_IN_WORDS, a block's outputs n and n + LANES are the halves of one
 * word, which widens to both in a step each. bfloat16 weights are always narrow. */
void pack_weight(const scalar *weight, void *packed, int outputs, int inputs, int narrow, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int block = 0; block < num_blocks(outputs); block++) {
        size_t to = (size_t)block * OUTPUTS * num_steps(inputs) * PAIRED;
        for (int i = 0; i < inputs; i += PAIRED)
            for (int place = 0; place < OUTPUTS; place++) {
                int output = narrow && PACKED_IN_WORDS ? place / 2 + place % 2 * LANES : place;
                output += block * OUTPUTS;
                for (int pair = 0; pair < PAIRED; pair++, to++) {
                    int is_there = output < outputs && i + pair < inputs;
                    scalar x = is_there ? weight[(size_t)output * inputs + i + pair] : 0;
                    if (narrow)
                        ((uint16_t *)packed)[to] = upper_half(x);
                    else
                        ((float *)packed)[to] = x;
                }
            }
    }
}

/* The weights of a block for PAIRED inputs, as two registers. */
ALWAYS_INLINE void load_weights(const char *weight, const int narrow, Factors *low, Factors *high) {
#if PACKED_IN_WORDS
    if (narrow) {
        load_words((const uint32_t *)weight, low, high);
    } else {
        *low = load_floats((const float *)weight, LANES);
        *high = load_floats((const float *)weight + LANES, LANES);
    }
#else
    (void)narrow; /* they always are */
    *low = load_factors((const scalar *)weight);
    *high = load_factors((const scalar *)weight + WIDE);
#endif
}

/* One product: its weight, its inputs and the terms of its epilogue. */
typedef struct {
    Weight weight;
    const scalar *x;
    int64_t x_stride;      /* scalars from row to row */
    const scalar *addend;  /* added to the sums, if not null */
    int64_t addend_stride; /* scalars from row to row; 0 for a bias */
    float scale;
} Product;

/* Finish a row's sums in one block: y = scale * sums + addend. */
ALWAYS_INLINE void epilogue(const Product *product, int block, const scalar *addend, Floats low, Floats high,
                            scalar *y) {
    int start = block * OUTPUTS, left = product->weight.outputs - start, in_high = left > LANES ? left - LANES : 0;
    if (addend) {
        Floats scale = broadcast(product->scale);
        low = fmadd(low, scale, load(addend + start, left));
        high = fmadd(high, scale, load(addend + start + LANES, in_high));
    }
    store(y + start, left, low);
    store(y + start + LANES, in_high, high);
}

/* One block of outputs for `rows` rows, a constant in every use so that the sums of a chunk stay in registers.
 *
 * The weights of a block come from memory once, for the first of its tiles, and from a cache for the others. So where
 * there are several, each prefetches its part of the next block: memory then works throughout, not in turns with the
 * arithmetic. This is tile `part` of `parts`. */
ALWAYS_INLINE void linear_tile(const int rows, const int narrow, const Product *product, int block, int part, int parts,
                               const scalar *x, const scalar *addend, scalar *y) {
    Floats low[ROWS], high[ROWS];
    for (int r = 0; r < rows; r++) low[r] = high[r] = broadcast(0);
    const size_t step = OUTPUTS * PAIRED * weight_size(narrow); /* bytes of weights that are multiplied at once */
    int inputs = product->weight.inputs;
    const char *weight = (const char *)product->weight.packed + step * num_steps(inputs) * block;
    const char *next = weight + step * num_steps(inputs) + step / parts * num_steps(inputs) * part;
    for (int chunk = 0; chunk < inputs; chunk += CHUNK) {
        Floats chunk_low[ROWS], chunk_high[ROWS];
        for (int r = 0; r < rows; r++) chunk_low[r] = chunk_high[r] = broadcast(0);
        int end = chunk + CHUNK < inputs ? chunk + CHUNK : inputs - inputs % PAIRED;
#pragma GCC unroll 4
        for (int i = chunk; i < end; i += PAIRED, weight += step) {
            if (parts == 1)
                for (size_t line = 0; line < step; line += 64) PREFETCH(weight + PREFETCH_AHEAD + line);
            else
                PREFETCH_L2(next), next += step / parts;
            Factors weights_low, weights_high;
            load_weights(weight, narrow, &weights_low, &weights_high);
#pragma GCC unroll 12
            for (int r = 0; r < rows; r++) {
                Factors input = broadcast_factors(x + r * product->x_stride + i);
                chunk_low[r] = dot_accumulate(weights_low, input, chunk_low[r]);
                chunk_high[r] = dot_accumulate(weights_high, input, chunk_high[r]);
            }
        }
#if PAIRED > 1
        if (chunk + CHUNK >= inputs && end < inputs) { /* an input without another to be paired with */
            Factors weights_low, weights_high;
            load_weights(weight, narrow, &weights_low, &weights_high);
            for (int r = 0; r < rows; r++) {
                Factors input = broadcast_single(x + r * product->x_stride + end);
                chunk_low[r] = dot_accumulate(weights_low, input, chunk_low[r]);
                chunk_high[r] = dot_accumulate(weights_high, input, chunk_high[r]);
            }
        }
#endif
        for (int r = 0; r < rows; r++) {
            low[r] += chunk_low[r];
            high[r] += chunk_high[r];
        }
    }
    for (int r = 0; r < rows; r++)
        epilogue(product, block, addend ? addend + r * product->addend_stride : NULL, low[r], high[r],
                 y + (size_t)r * product->weight.outputs);
}

ALWAYS_INLINE void linear_block(const int narrow, const Product *product, int block, scalar *y, int rows) {
    int num_tiles = (rows + ROWS - 1) / ROWS, tile = (rows + num_tiles - 1) / num_tiles;
    for (int row = 0; row < rows; row += tile) {
        const scalar *in = product->x + row * product->x_stride;
        const scalar *addend = product->addend ? product->addend + row * product->addend_stride : NULL;
        scalar *out = y + (size_t)row * product->weight.outputs;
        switch (rows - row < tile ? rows - row : tile) {
            /* clang-format off */
#define TILE(count) \
    case count: linear_tile(count, narrow, product, block, row / tile, num_tiles, in, addend, out); break;
            TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
#if ROWS > 6
            TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
#endif
            /* clang-format on */
        }
    }
}

#ifdef TILED
/* `linear_block` in tiles of AMX. The next weights are prefetched as in `linear_tile`; `configured` is the number of
 * rows that this thread's tiles are set up for. */
static void linear_block_tiled(const Product *product, int block, scalar *y, int rows, int *configured) {
    _Alignas(64) float sums[TILED_ROWS * OUTPUTS];
    int parts = (rows + TILED_ROWS - 1) / TILED_ROWS;
    const size_t step = TILE_INPUTS * OUTPUTS * sizeof(scalar); /* bytes of weights that are multiplied at once */
    size_t block_size = step * (product->weight.inputs / TILE_INPUTS);
    const char *weight = (const char *)product->weight.packed + block_size * block;
    for (int part = 0; part < parts; part++) {
        int first = part * TILED_ROWS, count = rows - first < TILED_ROWS ? rows - first : TILED_ROWS;
        if (count != *configured) configure_tiles(*configured = count);
        const char *x = (const char *)(product->x + first * product->x_stride);
        const char *next = parts == 1 ? weight + PREFETCH_AHEAD : weight + block_size + block_size / parts * part;
        int64_t x_bytes = product->x_stride * sizeof(scalar);
        if (count > TILE_ROWS)
            multiply_tiles(1, x, x_bytes, weight, product->weight.inputs, next, step / parts, sums);
        else
            multiply_tiles(0, x, x_bytes, weight, product->weight.inputs, next, step / parts, sums);
        for (int r = 0; r < count; r++) {
            const scalar *addend = product->addend ? product->addend + (first + r) * product->addend_stride : NULL;
            const float *row = sums + r * OUTPUTS;
            epilogue(product, block, addend, load_floats(row, LANES), load_floats(row + LANES, LANES),
                     y + (size_t)(first + r) * product->weight.outputs);
        }
    }
}
#endif

/* One block of outputs of a panel. */
static inline void multiply_block(const Product *panel, int block, scalar *y, int rows, int *configured) {
#ifdef TILED
    if (panel->weight.inputs % TILE_INPUTS == 0) {
        linear_block_tiled(panel, block, y, rows, configured);
        return;
    }
#endif
    (void)configured;
    if (panel->weight.narrow)
        linear_block(1, panel, block, y, rows);
    else
        linear_block(0, panel, block, y, rows);
}

/* Rows of each panel but the last. Where threads get several panels, all get as many, so that they end together. */
static int panel_size(int rows, int threads) {
    if (rows <= PANEL_ROWS) return rows;
    int panels = (rows + PANEL_ROWS - 1) / PANEL_ROWS;
    if (panels > threads) panels = (panels + threads - 1) / threads * threads;
    return ((rows + panels - 1) / panels + WHOLE_TILES - 1) / WHOLE_TILES * WHOLE_TILES;
}

static void multiply(const Product *product, scalar *y, int rows, int threads) {
    if (!rows) return;
    int outputs = product->weight.outputs, blocks = num_blocks(outputs), step = panel_size(rows, threads);
    int panels = (rows + step - 1) / step;
#pragma omp parallel num_threads(threads) if (panels * blocks > 1)
    {
        int configured = 0;
#pragma omp for schedule(static)
        for (int task = 0; task < panels * blocks; task++) {
            int first = task / blocks * step;
            Product panel = *product;
            panel.x += first * panel.x_stride;
            if (panel.addend) panel.addend += first * panel.addend_stride;
            multiply_block(&panel, task % blocks, y + (size_t)first * outputs,
                           rows - first < step ? rows - first : step, &configured);
        }
#ifdef TILED
        if (configured) _tile_release();
#endif
    }
}

/* y (rows, outputs) = x (rows, inputs) times the weight transposed, plus the bias if there is one. */
void linear(const Weight *weight, const scalar *x, int64_t x_stride, scalar *y, int rows, int threads) {
    multiply(&(Product){*weight, x, x_stride, weight->bias, 0, 1.0f}, y, rows, threads);
}

/* y += scale * x times the weight transposed. */
void add_linear(const Weight *weight, const scalar *x, int64_t x_stride, scalar *y, int rows, float scale,
                int threads) {
    multiply(&(Product){*weight, x, x_stride, y, weight->outputs, scale}, y, rows, threads);
}

/* The divisor of the number of inputs with which products are fastest. */
int input_multiple(void) { return INPUT_MULTIPLE; }

/* Whether this process may run what was compiled here. */
int may_run(void) {
#ifdef TILED
    return request_tiles();
#else
    return 1;
#endif
}
