/* The steps of decoding that torch's CPU kernels do slowly for few rows, for processors with AVX512.
 *
 * The file is compiled once per dtype: for float32, and with BFLOAT16 defined for bfloat16, whose numbers are the upper
 * halves of floats and are passed as uint16_t. Sums are float32 in both, and results are rounded where the same torch
 * expression rounds them. A row's result never depends on the rows beside it: each sum runs over its inputs in one
 * fixed order. Every function splits its work over `threads` of OpenMP, which is the pool that torch computes with.
 */
#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LANES 16        /* float32 numbers in a register */
#define OUTPUTS 32      /* outputs of a linear layer that are computed together, two registers */
#define PREFETCH 2048   /* bytes of weights that are asked for ahead of the current ones */
#define SMALL_WORK 8192 /* numbers below which a second thread costs more than it saves */

#define ALL 0xFFFF
static inline __mmask16 first(int count) { return count >= LANES ? 0xFFFF : (__mmask16)((1u << count) - 1); }

/* ---- numbers of either dtype ------------------------------------------------------------------------------------ */

#ifdef BFLOAT16

typedef uint16_t number;
typedef __m512bh Factors; /* 32 numbers; products of neighbours are added */
#define PAIRED 2          /* inputs that one instruction multiplies per output */

static inline __m512 widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
static inline __m256i narrow(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
static inline __m512 rounded(__m512 x) { return widen(narrow(x)); }
static inline __m512 load(const number *x, __mmask16 which) { return widen(_mm256_maskz_loadu_epi16(which, x)); }
static inline void store(number *y, __mmask16 which, __m512 x) { _mm256_mask_storeu_epi16(y, which, narrow(x)); }

static inline Factors factors(const number *x) { return (Factors)_mm512_loadu_si512(x); }
static inline Factors repeated(const number *x) {
    int pair;
    memcpy(&pair, x, sizeof pair);
    return (Factors)_mm512_set1_epi32(pair);
}
static inline __m512 multiply_add(Factors a, Factors b, __m512 sum) { return _mm512_dpbf16_ps(sum, a, b); }

/* 32 numbers as two registers, even and odd ones: a register of pairs widens to them in one step each. */
static inline void load_halves(const number *x, __m512 *even, __m512 *odd) {
    __m512i pairs = _mm512_loadu_si512(x);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xFFFF0000)));
}
static inline void store_halves(number *y, __m512 even, __m512 odd) {
    __m512i upper = _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow(odd)), 16);
    _mm512_storeu_si512(y, _mm512_or_si512(_mm512_cvtepu16_epi32(narrow(even)), upper));
}

#else

typedef float number;
typedef __m512 Factors;
#define PAIRED 1

static inline __m512 rounded(__m512 x) { return x; }
static inline __m512 load(const number *x, __mmask16 which) { return _mm512_maskz_loadu_ps(which, x); }
static inline void store(number *y, __mmask16 which, __m512 x) { _mm512_mask_storeu_ps(y, which, x); }

static inline Factors factors(const number *x) { return _mm512_loadu_ps(x); }
static inline Factors repeated(const number *x) { return _mm512_set1_ps(*x); }
static inline __m512 multiply_add(Factors a, Factors b, __m512 sum) { return _mm512_fmadd_ps(a, b, sum); }

static inline void load_halves(const number *x, __m512 *left, __m512 *right) {
    *left = _mm512_loadu_ps(x);
    *right = _mm512_loadu_ps(x + LANES);
}
static inline void store_halves(number *y, __m512 left, __m512 right) {
    _mm512_storeu_ps(y, left);
    _mm512_storeu_ps(y + LANES, right);
}

#endif

#define WIDE (LANES * PAIRED) /* numbers in `Factors` */
#define CHUNK (128 * PAIRED)  /* inputs that are summed apart: a sum of sums rounds less than one long sum */

/* e^x to about one unit in the last place: 2^n times a polynomial on [-ln2/2, ln2/2]. Beyond the limits it is 0 or
 * infinity as it should be; they keep n finite. */
static inline __m512 exp_of(__m512 x) {
    x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-110.0f)), _mm512_set1_ps(110.0f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
    static const float terms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    for (int i = 0; i < 7; i++) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(terms[i]));
    return _mm512_scalef_ps(p, n);
}

/* ---- linear layer ---------------------------------------------------------------------------------------------- */

static inline int num_blocks(int outputs) { return (outputs + OUTPUTS - 1) / OUTPUTS; }

/* Numbers that the packed form of a weight takes. */
int64_t packed_size(int outputs, int inputs) { return (int64_t)num_blocks(outputs) * OUTPUTS * inputs; }

/* Lay a weight (outputs, inputs) out as (blocks, inputs / PAIRED, 32 outputs, PAIRED): what one instruction multiplies
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

/* One block of outputs for `rows` rows, a constant in every use so that the sums of a chunk stay in registers. */
static inline __attribute__((always_inline)) void linear_tile(const int rows, const Layer *layer, int block,
                                                              const number *x, const number *addend, number *y) {
    __m512 low[12], high[12];
    for (int r = 0; r < rows; r++) low[r] = high[r] = _mm512_setzero_ps();
    int inputs = layer->inputs, start = block * OUTPUTS, left = layer->outputs - start;
    const number *weight = layer->packed + (size_t)block * OUTPUTS * inputs;
    for (int chunk = 0; chunk < inputs; chunk += CHUNK) {
        __m512 chunk_low[12], chunk_high[12];
        for (int r = 0; r < rows; r++) chunk_low[r] = chunk_high[r] = _mm512_setzero_ps();
        int end = chunk + CHUNK < inputs ? chunk + CHUNK : inputs;
        for (int i = chunk; i < end; i += PAIRED, weight += 2 * WIDE) {
            _mm_prefetch((const char *)weight + PREFETCH, _MM_HINT_T0);
            _mm_prefetch((const char *)weight + PREFETCH + 64, _MM_HINT_T0);
            Factors weights_low = factors(weight), weights_high = factors(weight + WIDE);
#pragma GCC unroll 12
            for (int r = 0; r < rows; r++) {
                Factors input = repeated(x + (size_t)r * inputs + i);
                chunk_low[r] = multiply_add(weights_low, input, chunk_low[r]);
                chunk_high[r] = multiply_add(weights_high, input, chunk_high[r]);
            }
        }
        for (int r = 0; r < rows; r++) {
            low[r] = _mm512_add_ps(low[r], chunk_low[r]);
            high[r] = _mm512_add_ps(high[r], chunk_high[r]);
        }
    }
    __mmask16 in_low = first(left), in_high = first(left > LANES ? left - LANES : 0);
    __m512 scale = _mm512_set1_ps(layer->scale);
    for (int r = 0; r < rows; r++) {
        if (addend) {
            const number *more = addend + r * layer->addend_stride + start;
            low[r] = _mm512_fmadd_ps(low[r], scale, load(more, in_low));
            high[r] = _mm512_fmadd_ps(high[r], scale, load(more + LANES, in_high));
        }
        store(y + (size_t)r * layer->outputs + start, in_low, low[r]);
        store(y + (size_t)r * layer->outputs + start + LANES, in_high, high[r]);
    }
}

static void linear_layer(const Layer *layer, const number *x, number *y, int rows, int threads) {
    if (!rows) return;
    int num_tiles = (rows + 11) / 12, tile = (rows + num_tiles - 1) / num_tiles;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int block = 0; block < num_blocks(layer->outputs); block++)
        for (int row = 0; row < rows; row += tile) {
            const number *in = x + (size_t)row * layer->inputs;
            const number *addend = layer->addend ? layer->addend + row * layer->addend_stride : NULL;
            number *out = y + (size_t)row * layer->outputs;
            switch (rows - row < tile ? rows - row : tile) {
#define TILE(count) \
    case count: linear_tile(count, layer, block, in, addend, out); break;
                TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
                TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
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

/* ---- pointwise ------------------------------------------------------------------------------------------------- */

/* y = x / sqrt(mean(x^2) + eps) * weight, row by row of `width` numbers. */
void rms_norm(const number *x, const number *weight, number *y, int rows, int width, float eps, int threads) {
#pragma omp parallel for num_threads(threads) if ((int64_t)rows * width > SMALL_WORK)
    for (int row = 0; row < rows; row++) {
        const number *in = x + (size_t)row * width;
        __m512 squares = _mm512_setzero_ps();
        for (int i = 0; i < width; i += LANES) {
            __m512 v = load(in + i, first(width - i));
            squares = _mm512_fmadd_ps(v, v, squares);
        }
        __m512 scale = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)width + eps));
        for (int i = 0; i < width; i += LANES) {
            __mmask16 here = first(width - i);
            __m512 v = _mm512_mul_ps(load(in + i, here), scale);
            store(y + (size_t)row * width + i, here, _mm512_mul_ps(v, load(weight + i, here)));
        }
    }
}

/* y (rows, width) = silu(gate) * up of gate_up (rows, 2 * width). silu is rounded before the product, as in torch. */
void swiglu(const number *gate_up, number *y, int rows, int width, int threads) {
#pragma omp parallel for num_threads(threads) if ((int64_t)rows * width > SMALL_WORK)
    for (int row = 0; row < rows; row++) {
        const number *gates = gate_up + (size_t)row * 2 * width, *ups = gates + width;
        for (int i = 0; i < width; i += LANES) {
            __mmask16 here = first(width - i);
            __m512 gate = load(gates + i, here);
            __m512 below = _mm512_add_ps(_mm512_set1_ps(1.0f), exp_of(_mm512_sub_ps(_mm512_setzero_ps(), gate)));
            __m512 silu = rounded(_mm512_div_ps(gate, below));
            store(y + (size_t)row * width + i, here, _mm512_mul_ps(silu, load(ups + i, here)));
        }
    }
}

/* Turn channel i against channel i + dim / 2 of `heads` heads of every token; `dim` is a multiple of 32.
 * x has `stride` numbers from token to token; cos and sin, (tokens, dim), hold a channel's own factor and its
 * partner's. The product with cos is rounded first, as in torch. */
void rotate(const number *x, int64_t stride, const number *cos, const number *sin, number *y, int tokens, int heads, int dim,
            int threads) {
#pragma omp parallel for num_threads(threads) if ((int64_t)tokens * heads * dim > SMALL_WORK)
    for (int token = 0; token < tokens; token++)
        for (int head = 0; head < heads; head++) {
            const number *in = x + token * stride + head * dim;
            number *out = y + ((size_t)token * heads + head) * dim;
            for (int i = 0; i < dim; i += LANES) {
                const number *own = in + i, *partner = in + (i < dim / 2 ? i + dim / 2 : i - dim / 2);
                __m512 turned = rounded(_mm512_mul_ps(load(own, ALL), load(cos + token * dim + i, ALL)));
                turned = _mm512_fmadd_ps(load(partner, ALL), load(sin + token * dim + i, ALL), turned);
                store(out + i, ALL, turned);
            }
        }
}

/* ---- attention ------------------------------------------------------------------------------------------------- */

/* Keys and values of successive tokens, with the numbers from one to the next. */
typedef struct {
    const number *keys, *values;
    int64_t key_stride, value_stride;
    int count;
} Run;

/* What one query sees: some tokens, and those after them. */
typedef struct {
    Run before, own;
} Seen;

static inline const number *key_of(const Seen *seen, int token) {
    int own = token - seen->before.count;
    return own < 0 ? seen->before.keys + token * seen->before.key_stride : seen->own.keys + own * seen->own.key_stride;
}

static inline const number *value_of(const Seen *seen, int token) {
    int own = token - seen->before.count;
    return own < 0 ? seen->before.values + token * seen->before.value_stride
                   : seen->own.values + own * seen->own.value_stride;
}

/* Forget all but the newest `window` tokens. */
static Seen newest(Seen seen, int window) {
    int too_many = seen.before.count + seen.own.count - window;
    Run *runs[] = {&seen.before, &seen.own};
    for (int i = 0; i < 2 && too_many > 0; i++) {
        int dropped = too_many < runs[i]->count ? too_many : runs[i]->count;
        runs[i]->keys += dropped * runs[i]->key_stride;
        runs[i]->values += dropped * runs[i]->value_stride;
        runs[i]->count -= dropped;
        too_many -= dropped;
    }
    return seen;
}

/* The sum over the lanes of each of 16 registers, as one register. */
static inline __m512 sums_of(const __m512 *x) {
    __m512 pairs[8], quads[4], octets[2];
    for (int i = 0; i < 8; i++)
        pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]), _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]));
    for (int i = 0; i < 4; i++) {
        __m512d even = _mm512_castps_pd(pairs[2 * i]), odd = _mm512_castps_pd(pairs[2 * i + 1]);
        quads[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(even, odd)),
                                 _mm512_castpd_ps(_mm512_unpackhi_pd(even, odd)));
    }
    for (int i = 0; i < 2; i++)
        octets[i] = _mm512_add_ps(_mm512_shuffle_f32x4(quads[2 * i], quads[2 * i + 1], 0x88),
                                  _mm512_shuffle_f32x4(quads[2 * i], quads[2 * i + 1], 0xDD));
    return _mm512_add_ps(_mm512_shuffle_f32x4(octets[0], octets[1], 0x88),
                         _mm512_shuffle_f32x4(octets[0], octets[1], 0xDD));
}

/* q k^T / sqrt(dim) for every token seen; gives the greatest. */
static float score(const number *q, const Seen *seen, int count, int dim, float *scores) {
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf((float)dim)), most = _mm512_set1_ps(-INFINITY);
    for (int token = 0; token < count; token += LANES) {
        __m512 products[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            int each = token + lane < count ? token + lane : count - 1;
            const number *key = key_of(seen, each), *value = value_of(seen, each);
            products[lane] = _mm512_setzero_ps();
            for (int i = 0; i < dim; i += WIDE) {
                _mm_prefetch((const char *)(value + i), _MM_HINT_T0);
                products[lane] = multiply_add(factors(key + i), factors(q + i), products[lane]);
            }
        }
        __m512 row = _mm512_mul_ps(sums_of(products), scale);
        _mm512_mask_storeu_ps(scores + token, first(count - token), row);
        most = _mm512_max_ps(most, row);
    }
    return _mm512_reduce_max_ps(most);
}

/* e^(score - most) in place of each score; gives their sum. */
static float exponentiate(float *scores, int count, float most) {
    __m512 total = _mm512_setzero_ps();
    for (int token = 0; token < count; token += LANES) {
        __mmask16 here = first(count - token);
        __m512 weight = exp_of(_mm512_sub_ps(_mm512_maskz_loadu_ps(here, scores + token), _mm512_set1_ps(most)));
        total = _mm512_mask_add_ps(total, here, total, weight);
        _mm512_mask_storeu_ps(scores + token, here, weight);
    }
    return _mm512_reduce_add_ps(total);
}

/* The values seen, weighted and added: 32 channels. Every fourth is summed apart, since a sum waits for its last term. */
static void add_values(const float *weights, const Seen *seen, int count, int channel, __m512 share, number *out) {
    __m512 one[4], other[4];
    for (int part = 0; part < 4; part++) one[part] = other[part] = _mm512_setzero_ps();
    for (int token = 0; token < count; token += 4)
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) {
            int each = token + part < count ? token + part : count - 1;
            __m512 weight = _mm512_set1_ps(token + part < count ? weights[each] : 0.0f), values[2];
            load_halves(value_of(seen, each) + channel, &values[0], &values[1]);
            one[part] = _mm512_fmadd_ps(weight, values[0], one[part]);
            other[part] = _mm512_fmadd_ps(weight, values[1], other[part]);
        }
    __m512 ones = _mm512_add_ps(_mm512_add_ps(one[0], one[1]), _mm512_add_ps(one[2], one[3]));
    __m512 others = _mm512_add_ps(_mm512_add_ps(other[0], other[1]), _mm512_add_ps(other[2], other[3]));
    store_halves(out + channel, _mm512_mul_ps(ones, share), _mm512_mul_ps(others, share));
}

/* softmax(q k^T / sqrt(dim)) v of one head. `scores` is room for a float per token seen. */
static void attend_head(const number *q, const Seen *seen, number *out, int dim, float *scores) {
    int count = seen->before.count + seen->own.count;
    float most = score(q, seen, count, dim, scores);
    __m512 share = _mm512_set1_ps(1.0f / exponentiate(scores, count, most));
    for (int i = 0; i < dim; i += 2 * LANES) add_values(scores, seen, count, i, share, out);
}

/* One new token per sequence: append its key and value, (rows, kv_heads, dim), to the row's cache at its position, and
 * attend to the cache. Caches are (rows, kv_heads, capacity, dim); q and out are (rows, heads, dim); q, k and v have
 * their strides from row to row; `dim` is a multiple of 32. A row sees its newest `window` tokens. `scratch` is room
 * for threads * capacity floats. */
void append_and_attend(const number *q, int64_t q_stride, const number *k, int64_t k_stride, const number *v,
                       int64_t v_stride, number *keys, number *values, const int64_t *positions, number *out, float *scratch,
                       int rows, int heads, int kv_heads, int dim, int capacity, int window, int threads) {
    int group = heads / kv_heads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int task = 0; task < rows * kv_heads; task++) {
        int row = task / kv_heads, kv_head = task % kv_heads, position = (int)positions[row];
        number *own_keys = keys + (size_t)task * capacity * dim, *own_values = values + (size_t)task * capacity * dim;
        memcpy(own_keys + (size_t)position * dim, k + row * k_stride + kv_head * dim, dim * sizeof(number));
        memcpy(own_values + (size_t)position * dim, v + row * v_stride + kv_head * dim, dim * sizeof(number));
        Run cached = {own_keys, own_values, dim, dim, position + 1};
        Seen seen = newest((Seen){.own = cached}, window);
        for (int head = kv_head * group; head < (kv_head + 1) * group; head++)
            attend_head(q + row * q_stride + head * dim, &seen, out + ((size_t)row * heads + head) * dim, dim,
                        scratch + (size_t)omp_get_thread_num() * capacity);
    }
}

/* Whole sequences, packed: token t sees the tokens from starts[t] up to itself, behind `num_before` shared ones whose
 * keys and values are (num_before, kv_heads, dim). q, k and v have their strides from token to token; out is
 * (tokens, heads, dim). `scratch` is room for threads * `most_seen` floats. */
void attend_packed(const number *q, int64_t q_stride, const number *k, int64_t k_stride, const number *v, int64_t v_stride,
                   const number *keys_before, const number *values_before, const int64_t *starts, number *out,
                   float *scratch, int tokens, int heads, int kv_heads, int dim, int num_before, int most_seen,
                   int window, int threads) {
    int group = heads / kv_heads;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 16)
    for (int task = 0; task < tokens * kv_heads; task++) {
        int token = task / kv_heads, kv_head = task % kv_heads, start = (int)starts[token];
        int64_t stride = (int64_t)kv_heads * dim;
        Run before = {keys_before + kv_head * dim, values_before + kv_head * dim, stride, stride, num_before};
        Run own = {k + start * k_stride + kv_head * dim, v + start * v_stride + kv_head * dim, k_stride, v_stride,
                   token - start + 1};
        Seen seen = newest((Seen){before, own}, window);
        for (int head = kv_head * group; head < (kv_head + 1) * group; head++)
            attend_head(q + token * q_stride + head * dim, &seen, out + ((size_t)token * heads + head) * dim, dim,
                        scratch + (size_t)omp_get_thread_num() * most_seen);
    }
}

/* ---- drawing tokens --------------------------------------------------------------------------------------------- */

#define STRETCH 512 /* logits whose weights are summed together, a multiple of LANES */

/* e^((logit - most) / temperature) of up to 16 logits, 0 beyond `count`. */
static inline __m512 weights_of(const float *logits, int count, __m512 most, __m512 sharpness) {
    __m512 above = _mm512_sub_ps(_mm512_maskz_loadu_ps(first(count), logits), most);
    return _mm512_maskz_mov_ps(first(count), exp_of(_mm512_mul_ps(above, sharpness)));
}

static float sum_of_weights(const float *logits, int count, __m512 most, __m512 sharpness) {
    __m512 sums = _mm512_setzero_ps();
    for (int i = 0; i < count; i += LANES)
        sums = _mm512_add_ps(sums, weights_of(logits + i, count - i, most, sharpness));
    return _mm512_reduce_add_ps(sums);
}

/* The first of `count` logits whose cumulative weight passes `wanted`; if rounding leaves none, the last with any. */
static int pass_point(const float *logits, int count, __m512 most, __m512 sharpness, double wanted) {
    double passed = 0;
    int last = 0;
    for (int i = 0; i < count; i += LANES) {
        float weights[LANES];
        _mm512_storeu_ps(weights, weights_of(logits + i, count - i, most, sharpness));
        for (int lane = 0; lane < LANES && i + lane < count; lane++) {
            passed += weights[lane];
            if (weights[lane] > 0) last = i + lane;
            if (passed > wanted) return i + lane;
        }
    }
    return last;
}

static int likeliest(const float *logits, int count) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    __m512i best = _mm512_setzero_si512(), index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int i = 0; i < count; i += LANES) {
        __m512 here = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), first(count - i), logits + i);
        __mmask16 greater = _mm512_cmp_ps_mask(here, most, _CMP_GT_OQ);
        most = _mm512_mask_mov_ps(most, greater, here);
        best = _mm512_mask_mov_epi32(best, greater, _mm512_add_epi32(index, _mm512_set1_epi32(i)));
    }
    __mmask16 ties = _mm512_cmp_ps_mask(most, _mm512_set1_ps(_mm512_reduce_max_ps(most)), _CMP_EQ_OQ);
    return _mm512_mask_reduce_min_epi32(ties, best);
}

static float greatest(const float *logits, int count) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    for (int i = 0; i < count; i += LANES)
        most = _mm512_max_ps(most, _mm512_mask_loadu_ps(most, first(count - i), logits + i));
    return _mm512_reduce_max_ps(most);
}

/* One token per row of logits (rows, vocab), among the first `drawable`, and its log-probability among all: the
 * likeliest where the temperature is 0, else where the cumulative probability of the tempered distribution passes
 * the row's number in [0, 1). */
void draw(const float *logits, const float *temperatures, const double *uniforms, int64_t *tokens, float *logprobs,
          int rows, int vocab, int drawable, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int row = 0; row < rows; row++) {
        const float *own = logits + (size_t)row * vocab;
        float temperature = temperatures[row] > 0 ? temperatures[row] : 1.0f, top = greatest(own, vocab);
        __m512 most = _mm512_set1_ps(top), sharpness = _mm512_set1_ps(1.0f / temperature);
        int num_stretches = (drawable + STRETCH - 1) / STRETCH, token = likeliest(own, drawable);
        float sums[num_stretches];
        double total = 0;
        for (int s = 0; s < num_stretches; s++) {
            int start = s * STRETCH, count = drawable - start < STRETCH ? drawable - start : STRETCH;
            total += sums[s] = sum_of_weights(own + start, count, most, sharpness);
        }
        if (temperatures[row] > 0) {
            double wanted = uniforms[row] * total;
            int s = 0;
            while (s < num_stretches - 1 && wanted >= sums[s]) wanted -= sums[s++];
            int start = s * STRETCH, count = drawable - start < STRETCH ? drawable - start : STRETCH;
            token = start + pass_point(own + start, count, most, sharpness, wanted);
        }
        total += sum_of_weights(own + drawable, vocab - drawable, most, sharpness);
        tokens[row] = token;
        logprobs[row] = (own[token] - top) / temperature - (float)log(total);
    }
}
