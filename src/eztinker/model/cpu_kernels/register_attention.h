/* Attention in the processor's vector registers, for attention.c. */
#pragma once

#define QUERIES 3 /* queries that are computed together, so that keys and values are read once for all of them */
#define PARTS (REGISTERS / 8) /* sums of a channel: those of QUERIES and 2 * LANES channels fill the registers */

/* Keep the newest `window` tokens alone. */
static Visible apply_window(Visible visible, int window) {
    int excess = visible.prefix.count + visible.own.count - window;
    KVRun *runs[] = {&visible.prefix, &visible.own};
    for (int i = 0; i < 2 && excess > 0; i++) {
        int dropped = excess < runs[i]->count ? excess : runs[i]->count;
        runs[i]->keys += dropped * runs[i]->key_stride;
        runs[i]->values += dropped * runs[i]->value_stride;
        runs[i]->count -= dropped;
        excess -= dropped;
    }
    return visible;
}

/* q k^T / sqrt(dim) of each query for every visible token; gives each query's maximum. Its scores are `stride` floats
 * after the one's before. */
ALWAYS_INLINE void score(const int queries, const scalar *q, const Visible *visible, int count, int dim, float *scores,
                         int stride, float *maxima) {
    Floats scale = broadcast(1.0f / sqrtf((float)dim)), max[QUERIES], products[QUERIES][LANES];
    for (int query = 0; query < queries; query++) max[query] = broadcast(-INFINITY);
    for (int token = 0; token < count; token += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            int each = token + lane < count ? token + lane : count - 1;
            const scalar *key = key_at(visible, each), *value = value_at(visible, each);
            for (size_t i = 0; i < dim * sizeof(scalar); i += 64) PREFETCH((const char *)value + i);
            Floats sums[QUERIES];
            for (int query = 0; query < queries; query++) sums[query] = broadcast(0);
            int i = 0;
            for (; i + WIDE <= dim; i += WIDE) {
                Factors part = load_factors(key + i);
                for (int query = 0; query < queries; query++)
                    sums[query] = dot_accumulate(part, load_factors(q + query * dim + i), sums[query]);
            }
            if (i < dim) {
                Factors part = load_factors_masked(key + i, dim - i);
                for (int query = 0; query < queries; query++)
                    sums[query] = dot_accumulate(part, load_factors_masked(q + query * dim + i, dim - i), sums[query]);
            }
            for (int query = 0; query < queries; query++) products[query][lane] = sums[query];
        }
        for (int query = 0; query < queries; query++) {
            Floats row = reduce_add_each(products[query]) * scale;
            store_floats(scores + (size_t)query * stride + token, count - token, row);
            max[query] = maximum(max[query], row);
        }
    }
    for (int query = 0; query < queries; query++) maxima[query] = reduce_max(max[query]);
}

/* e^(score - max) in place of each score; gives their sum. */
static float exp_and_sum(float *scores, int count, float max) {
    Floats total = broadcast(0);
    for (int token = 0; token < count; token += LANES) {
        Floats weight = exp_floats(load_floats(scores + token, count - token) - broadcast(max));
        total += masked(weight, count - token);
        store_floats(scores + token, count - token, weight);
    }
    return reduce_add(total);
}

static inline Floats reduce_parts(const Floats *x) {
    Floats sum = x[0] + x[1];
#if PARTS == 4
    sum += x[2] + x[3];
#endif
    return sum;
}

/* The weighted sum of the visible values for each query: `channels` of them, 2 * LANES at most. Every PARTS-th is
 * summed apart, since a sum waits for its last term. */
ALWAYS_INLINE void accumulate_values(const int queries, const float *weights, int stride, const Visible *visible,
                                     int count, int channel, int channels, const float *inverse_sums, scalar *out,
                                     int dim) {
    Floats low[QUERIES][PARTS], high[QUERIES][PARTS];
    for (int query = 0; query < queries; query++)
        for (int part = 0; part < PARTS; part++) low[query][part] = high[query][part] = broadcast(0);
    for (int token = 0; token < count; token += PARTS)
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; part++) {
            int each = token + part < count ? token + part : count - 1;
            Floats values[2];
            load_halves(value_at(visible, each) + channel, channels, &values[0], &values[1]);
#pragma GCC unroll 4
            for (int query = 0; query < queries; query++) {
                Floats weight = broadcast(token + part < count ? weights[(size_t)query * stride + each] : 0.0f);
                low[query][part] = fmadd(weight, values[0], low[query][part]);
                high[query][part] = fmadd(weight, values[1], high[query][part]);
            }
        }
    for (int query = 0; query < queries; query++) {
        Floats inverse_sum = broadcast(inverse_sums[query]);
        store_halves(out + query * dim + channel, channels, reduce_parts(low[query]) * inverse_sum,
                     reduce_parts(high[query]) * inverse_sum);
    }
}

/* softmax(q k^T / sqrt(dim)) v of heads that share keys and values. */
ALWAYS_INLINE void attend_heads(const int queries, const scalar *q, const Visible *visible, scalar *out, int dim,
                                float *scores, int stride) {
    int count = visible->prefix.count + visible->own.count;
    float max[QUERIES], inverse_sums[QUERIES];
    score(queries, q, visible, count, dim, scores, stride, max);
    for (int query = 0; query < queries; query++)
        inverse_sums[query] = 1.0f / exp_and_sum(scores + (size_t)query * stride, count, max[query]);
    int channel = 0;
    for (; channel + 2 * LANES <= dim; channel += 2 * LANES)
        accumulate_values(queries, scores, stride, visible, count, channel, 2 * LANES, inverse_sums, out, dim);
    if (channel < dim)
        accumulate_values(queries, scores, stride, visible, count, channel, dim - channel, inverse_sums, out, dim);
}

/* All heads of a group, (group, dim). `scores` is room for QUERIES rows of `stride` floats, one per visible token. */
static void attend_group(int group, const scalar *q, const Visible *visible, scalar *out, int dim, float *scores,
                         int stride) {
    int num_parts = (group + QUERIES - 1) / QUERIES, part = (group + num_parts - 1) / num_parts;
    for (int head = 0; head < group; head += part) {
        switch (group - head < part ? group - head : part) {
            /* clang-format off */
#define HEADS(count) \
    case count: attend_heads(count, q + head * dim, visible, out + head * dim, dim, scores, stride); break;
            HEADS(1) HEADS(2) HEADS(3)
            /* clang-format on */
        }
    }
}

static int64_t register_scratch_size(int max_visible) { return (int64_t)QUERIES * max_visible; }

static void attend_in_registers(const Queries *queries, float *scratch, int max_visible) {
    for (int token = 0; token < queries->tokens; token++) {
        Visible visible = queries->visible;
        visible.own.count -= queries->tokens - 1 - token;
        visible = apply_window(visible, queries->window);
        const scalar *q = queries->q + token * queries->q_stride;
        scalar *out = queries->out + token * queries->out_stride;
        attend_group(queries->group, q, &visible, out, queries->dim, scratch, max_visible);
    }
}
