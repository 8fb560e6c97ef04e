/* Sampling one token per sequence from its logits, which are float32 whatever the model's dtype. */
#include <math.h>

#include "simd.h"

#define BLOCK 512 /* logits whose weights are summed together, a multiple of LANES */

/* e^((logit - max) / temperature) of up to LANES logits, 0 beyond `count`. */
static inline Floats softmax_weights(const float *logits, int count, Floats max, Floats inverse_temperature) {
    return masked(exp_floats((load_floats(logits, count) - max) * inverse_temperature), count);
}

static float sum_softmax_weights(const float *logits, int count, Floats max, Floats inverse_temperature) {
    Floats sums = broadcast(0);
    for (int i = 0; i < count; i += LANES) sums += softmax_weights(logits + i, count - i, max, inverse_temperature);
    return reduce_add(sums);
}

/* The first of `count` logits whose cumulative weight passes `target`; if rounding leaves none, the last with any. */
static int inverse_cdf_in_block(const float *logits, int count, Floats max, Floats inverse_temperature, double target) {
    double cumulative = 0;
    int last = 0;
    for (int i = 0; i < count; i += LANES) {
        float weights[LANES];
        store_floats(weights, LANES, softmax_weights(logits + i, count - i, max, inverse_temperature));
        for (int lane = 0; lane < LANES && i + lane < count; lane++) {
            cumulative += weights[lane];
            if (weights[lane] > 0) last = i + lane;
            if (cumulative > target) return i + lane;
        }
    }
    return last;
}

static float max_logit(const float *logits, int count) {
    Floats max = broadcast(-INFINITY);
    for (int i = 0; i < count; i += LANES) max = maximum(max, load_floats_or(logits + i, count - i, max));
    return reduce_max(max);
}

/* The index of the greatest logit, the first of several. */
static int argmax(const float *logits, int count) {
    Floats max = broadcast(max_logit(logits, count));
    for (int i = 0; i < count; i += LANES) {
        int lanes = equal_mask(load_floats(logits + i, count - i), max);
        int present = count - i < LANES ? (1 << (count - i)) - 1 : ~0;
        if (lanes & present) return i + __builtin_ctz(lanes & present);
    }
    return 0;
}

/* A row's distribution: `drawable` of its logits can be drawn, the rest is padding of the vocabulary. */
typedef struct {
    const float *logits;
    int vocab, drawable;
    Floats inverse_temperature; /* 1 / temperature */
} Row;

static inline int num_blocks(int count) { return (count + BLOCK - 1) / BLOCK; }
static inline int block_size(int count, int block) {
    return count - block * BLOCK < BLOCK ? count - block * BLOCK : BLOCK;
}

/* The weights of all that can be drawn, e^((logit - max) / temperature), summed block by block; gives their total.
 * `max` is the greatest of them: a greater logit of the padding would leave them no weight at a low temperature. */
static double sum_drawable(const Row *row, float max, float *sums) {
    double total = 0;
    for (int s = 0; s < num_blocks(row->drawable); s++) {
        const float *logits = row->logits + s * BLOCK;
        total += sums[s] =
            sum_softmax_weights(logits, block_size(row->drawable, s), broadcast(max), row->inverse_temperature);
    }
    return total;
}

/* The token at which the cumulative weight of what can be drawn passes `target`. */
static int inverse_cdf(const Row *row, float max, const float *sums, double target) {
    int s = 0;
    while (s < num_blocks(row->drawable) - 1 && target >= sums[s]) target -= sums[s++];
    int start = s * BLOCK;
    return start + inverse_cdf_in_block(row->logits + start, block_size(row->drawable, s), broadcast(max),
                                        row->inverse_temperature, target);
}

/* The log of the sum of e^((logit - max) / temperature) over the whole vocabulary. `*max` and `total` are those of what
 * can be drawn; `*max` becomes the greatest of all. */
static float log_sum_exp(const Row *row, float *max, double total) {
    const float *padding = row->logits + row->drawable;
    int count = row->vocab - row->drawable;
    float top = max_logit(padding, count);
    if (top > *max) {
        float lanes[LANES];
        store_floats(lanes, LANES, exp_floats((broadcast(*max) - broadcast(top)) * row->inverse_temperature));
        total *= lanes[0];
        *max = top;
    }
    return (float)log(total + sum_softmax_weights(padding, count, broadcast(*max), row->inverse_temperature));
}

/* One token per row of logits (rows, vocab), among the first `drawable`, and its log-probability among all: the
 * most likely where the temperature is 0, else where the cumulative probability of the tempered distribution passes
 * the row's number in [0, 1). */
void draw(const float *logits, const float *temperatures, const double *uniforms, int64_t *tokens, float *logprobs,
          int rows, int vocab, int drawable, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int r = 0; r < rows; r++) {
        const float *own = logits + (size_t)r * vocab;
        float temperature = temperatures[r] > 0 ? temperatures[r] : 1.0f, sums[num_blocks(drawable)];
        Row row = {own, vocab, drawable, broadcast(1.0f / temperature)};
        int token = argmax(own, drawable);
        float max = own[token];
        double total = sum_drawable(&row, max, sums);
        if (temperatures[r] > 0) token = inverse_cdf(&row, max, sums, uniforms[r] * total);
        float log_sum = log_sum_exp(&row, &max, total);
        tokens[r] = token;
        logprobs[r] = (own[token] - max) / temperature - log_sum;
    }
}

/* For each row of logits (rows, vocab) what turns them into log-probabilities, (logit - maxima) / temperature -
 * log_sums, to the bit those of `draw`. Temperatures are above 0. */
void normalize(const float *logits, const float *temperatures, float *maxima, float *log_sums, int rows, int vocab,
               int drawable, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int r = 0; r < rows; r++) {
        const float *own = logits + (size_t)r * vocab;
        float sums[num_blocks(drawable)];
        Row row = {own, vocab, drawable, broadcast(1.0f / temperatures[r])};
        maxima[r] = max_logit(own, drawable);
        log_sums[r] = log_sum_exp(&row, &maxima[r], sum_drawable(&row, maxima[r], sums));
    }
}
