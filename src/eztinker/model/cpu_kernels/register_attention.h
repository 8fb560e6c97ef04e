/* Attention in the processor's vector registers, for attention.c. */
#pragma once

#define QUERIES 3             /* that are computed together, so that keys and values are read once for all of them */
#define PARTS (REGISTERS / 8) /* sums of a channel: those of QUERIES and 2 * LANES channels fill the registers */

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

/* q k^T / sqrt(dim) of each query for every token seen; gives each one's greatest. A query's scores are `room` floats
 * after the one's before. */
static inline __attribute__((always_inline)) void score(const int queries, const number *q, const Seen *seen, int count,
                                                        int dim, float *scores, int room, float *greatest) {
    Floats scale = repeat(1.0f / sqrtf((float)dim)), most[QUERIES], products[QUERIES][LANES];
    for (int query = 0; query < queries; query++) most[query] = repeat(-INFINITY);
    for (int token = 0; token < count; token += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            int each = token + lane < count ? token + lane : count - 1;
            const number *key = key_of(seen, each), *value = value_of(seen, each);
            for (size_t i = 0; i < dim * sizeof(number); i += 64) PREFETCH((const char *)value + i);
            Floats sums[QUERIES];
            for (int query = 0; query < queries; query++) sums[query] = repeat(0);
            int i = 0;
            for (; i + WIDE <= dim; i += WIDE) {
                Factors part = factors(key + i);
                for (int query = 0; query < queries; query++)
                    sums[query] = multiply_add(part, factors(q + query * dim + i), sums[query]);
            }
            if (i < dim) {
                Factors part = first_factors(key + i, dim - i);
                for (int query = 0; query < queries; query++)
                    sums[query] = multiply_add(part, first_factors(q + query * dim + i, dim - i), sums[query]);
            }
            for (int query = 0; query < queries; query++) products[query][lane] = sums[query];
        }
        for (int query = 0; query < queries; query++) {
            Floats row = sums_of(products[query]) * scale;
            store_floats(scores + (size_t)query * room + token, count - token, row);
            most[query] = larger(most[query], row);
        }
    }
    for (int query = 0; query < queries; query++) greatest[query] = greatest_of(most[query]);
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

static inline Floats sum_of_parts(const Floats *x) {
    Floats sum = x[0] + x[1];
#if PARTS == 4
    sum += x[2] + x[3];
#endif
    return sum;
}

/* The values seen, weighted and added for each query: `channels` of them, 2 * LANES at most. Every PARTS-th is summed
 * apart, since a sum waits for its last term. */
static inline __attribute__((always_inline)) void add_values(const int queries, const float *weights, int room,
                                                             const Seen *seen, int count, int channel, int channels,
                                                             const float *shares, number *out, int dim) {
    Floats one[QUERIES][PARTS], other[QUERIES][PARTS];
    for (int query = 0; query < queries; query++)
        for (int part = 0; part < PARTS; part++) one[query][part] = other[query][part] = repeat(0);
    for (int token = 0; token < count; token += PARTS)
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; part++) {
            int each = token + part < count ? token + part : count - 1;
            Floats values[2];
            load_halves(value_of(seen, each) + channel, channels, &values[0], &values[1]);
#pragma GCC unroll 4
            for (int query = 0; query < queries; query++) {
                Floats weight = repeat(token + part < count ? weights[(size_t)query * room + each] : 0.0f);
                one[query][part] = fused(weight, values[0], one[query][part]);
                other[query][part] = fused(weight, values[1], other[query][part]);
            }
        }
    for (int query = 0; query < queries; query++) {
        Floats share = repeat(shares[query]);
        store_halves(out + query * dim + channel, channels, sum_of_parts(one[query]) * share,
                     sum_of_parts(other[query]) * share);
    }
}

/* softmax(q k^T / sqrt(dim)) v of heads that share keys and values. */
static inline __attribute__((always_inline)) void attend_heads(const int queries, const number *q, const Seen *seen,
                                                               number *out, int dim, float *scores, int room) {
    int count = seen->before.count + seen->own.count;
    float most[QUERIES], shares[QUERIES];
    score(queries, q, seen, count, dim, scores, room, most);
    for (int query = 0; query < queries; query++)
        shares[query] = 1.0f / exponentiate(scores + (size_t)query * room, count, most[query]);
    int channel = 0;
    for (; channel + 2 * LANES <= dim; channel += 2 * LANES)
        add_values(queries, scores, room, seen, count, channel, 2 * LANES, shares, out, dim);
    if (channel < dim) add_values(queries, scores, room, seen, count, channel, dim - channel, shares, out, dim);
}

/* All heads of a group, (group, dim). `scores` is room for QUERIES rows of `room` floats, one per token seen. */
static void attend_group(int group, const number *q, const Seen *seen, number *out, int dim, float *scores, int room) {
    int num_parts = (group + QUERIES - 1) / QUERIES, part = (group + num_parts - 1) / num_parts;
    for (int head = 0; head < group; head += part)
        switch (group - head < part ? group - head : part) {
#define HEADS(count) \
    case count: attend_heads(count, q + head * dim, seen, out + head * dim, dim, scores, room); break;
            HEADS(1) HEADS(2) HEADS(3)
        }
}

static int64_t register_scratch_size(int most_seen) { return (int64_t)QUERIES * most_seen; }

static void attend_in_registers(const Queries *queries, float *scratch, int most_seen) {
    for (int token = 0; token < queries->tokens; token++) {
        Seen seen = queries->seen;
        seen.own.count -= queries->tokens - 1 - token;
        seen = newest(seen, queries->window);
        const number *q = queries->q + token * queries->q_stride;
        number *out = queries->out + token * queries->out_stride;
        attend_group(queries->group, q, &seen, out, queries->dim, scratch, most_seen);
    }
}
