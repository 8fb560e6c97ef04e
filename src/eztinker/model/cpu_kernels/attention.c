/* Causal attention of packed sequences, and of one new token per cached sequence. */
#include <math.h>
#include <omp.h>

#include "numbers.h"

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

/* q k^T / sqrt(dim) for every token seen; gives the greatest. */
static float score(const number *q, const Seen *seen, int count, int dim, float *scores) {
    Floats scale = repeat(1.0f / sqrtf((float)dim)), most = repeat(-INFINITY);
    for (int token = 0; token < count; token += LANES) {
        Floats products[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            int each = token + lane < count ? token + lane : count - 1;
            const number *key = key_of(seen, each), *value = value_of(seen, each);
            products[lane] = repeat(0);
            for (int i = 0; i < dim; i += WIDE) {
                prefetch(value + i);
                products[lane] = multiply_add(factors(key + i), factors(q + i), products[lane]);
            }
        }
        Floats row = sums_of(products) * scale;
        store_floats(scores + token, count - token, row);
        most = larger(most, row);
    }
    return greatest_of(most);
}

/* e^(score - most) in place of each score; gives their sum. */
static float exponentiate(float *scores, int count, float most) {
    Floats total = repeat(0);
    for (int token = 0; token < count; token += LANES) {
        Floats weight = exp_of(load_floats(scores + token, count - token) - repeat(most));
        total += kept(weight, count - token);
        store_floats(scores + token, count - token, weight);
    }
    return sum_of(total);
}

/* The values seen, weighted and added: 2 * LANES channels. Every fourth is summed apart, since a sum waits for its last term. */
static void add_values(const float *weights, const Seen *seen, int count, int channel, Floats share, number *out) {
    Floats one[4], other[4];
    for (int part = 0; part < 4; part++) one[part] = other[part] = repeat(0);
    for (int token = 0; token < count; token += 4)
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) {
            int each = token + part < count ? token + part : count - 1;
            Floats weight = repeat(token + part < count ? weights[each] : 0.0f), values[2];
            load_halves(value_of(seen, each) + channel, &values[0], &values[1]);
            one[part] = fused(weight, values[0], one[part]);
            other[part] = fused(weight, values[1], other[part]);
        }
    Floats ones = (one[0] + one[1]) + (one[2] + one[3]), others = (other[0] + other[1]) + (other[2] + other[3]);
    store_halves(out + channel, ones * share, others * share);
}

/* softmax(q k^T / sqrt(dim)) v of one head. `scores` is room for a float per token seen. */
static void attend_head(const number *q, const Seen *seen, number *out, int dim, float *scores) {
    int count = seen->before.count + seen->own.count;
    float most = score(q, seen, count, dim, scores);
    Floats share = repeat(1.0f / exponentiate(scores, count, most));
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
