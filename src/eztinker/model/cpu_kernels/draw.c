/* Drawing one token per sequence from its logits, which are float32 whatever the model's dtype. */
#include <math.h>

#include "numbers.h"

#define STRETCH 512 /* logits whose weights are summed together, a multiple of LANES */

/* e^((logit - most) / temperature) of up to LANES logits, 0 beyond `count`. */
static inline Floats weights_of(const float *logits, int count, Floats most, Floats sharpness) {
    return kept(exp_of((load_floats(logits, count) - most) * sharpness), count);
}

static float sum_of_weights(const float *logits, int count, Floats most, Floats sharpness) {
    Floats sums = repeat(0);
    for (int i = 0; i < count; i += LANES) sums += weights_of(logits + i, count - i, most, sharpness);
    return sum_of(sums);
}

/* The first of `count` logits whose cumulative weight passes `wanted`; if rounding leaves none, the last with any. */
static int pass_point(const float *logits, int count, Floats most, Floats sharpness, double wanted) {
    double passed = 0;
    int last = 0;
    for (int i = 0; i < count; i += LANES) {
        float weights[LANES];
        store_floats(weights, LANES, weights_of(logits + i, count - i, most, sharpness));
        for (int lane = 0; lane < LANES && i + lane < count; lane++) {
            passed += weights[lane];
            if (weights[lane] > 0) last = i + lane;
            if (passed > wanted) return i + lane;
        }
    }
    return last;
}

static float greatest(const float *logits, int count) {
    Floats most = repeat(-INFINITY);
    for (int i = 0; i < count; i += LANES) most = larger(most, load_floats_or(logits + i, count - i, most));
    return greatest_of(most);
}

/* The first of the greatest. */
static int likeliest(const float *logits, int count) {
    Floats most = repeat(greatest(logits, count));
    for (int i = 0; i < count; i += LANES) {
        int lanes = equal_lanes(load_floats(logits + i, count - i), most);
        int present = count - i < LANES ? (1 << (count - i)) - 1 : ~0;
        if (lanes & present) return i + __builtin_ctz(lanes & present);
    }
    return 0;
}

/* A row's distribution: `drawable` of its logits can be drawn, the rest is padding of the vocabulary. */
typedef struct {
    const float *logits;
    int vocab, drawable;
    Floats sharpness; /* 1 / temperature */
} Row;

static inline int num_stretches(int count) { return (count + STRETCH - 1) / STRETCH; }
static inline int stretch_size(int count, int stretch) {
    return count - stretch * STRETCH < STRETCH ? count - stretch * STRETCH : STRETCH;
}

/* The weights of all that can be drawn, e^((logit - most) / temperature), summed stretch by stretch; gives their total.
 * `most` is the greatest of them: a greater logit of the padding would leave them no weight at a low temperature. */
static double weigh_drawable(const Row *row, float most, float *sums) {
    double total = 0;
    for (int s = 0; s < num_stretches(row->drawable); s++) {
        const float *logits = row->logits + s * STRETCH;
        total += sums[s] = sum_of_weights(logits, stretch_size(row->drawable, s), repeat(most), row->sharpness);
    }
    return total;
}

/* Where the cumulative weight of what can be drawn passes `wanted`. */
static int pass_in(const Row *row, float most, const float *sums, double wanted) {
    int s = 0;
    while (s < num_stretches(row->drawable) - 1 && wanted >= sums[s]) wanted -= sums[s++];
    int start = s * STRETCH;
    return start + pass_point(row->logits + start, stretch_size(row->drawable, s), repeat(most), row->sharpness, wanted);
}

/* The log of the sum of e^((logit - most) / temperature) over the whole vocabulary. `*most` and `total` are those of what
 * can be drawn; `*most` becomes the greatest of all. */
static float log_total(const Row *row, float *most, double total) {
    const float *padding = row->logits + row->drawable;
    int count = row->vocab - row->drawable;
    float top = greatest(padding, count);
    if (top > *most) {
        float lanes[LANES];
        store_floats(lanes, LANES, exp_of((repeat(*most) - repeat(top)) * row->sharpness));
        total *= lanes[0];
        *most = top;
    }
    return (float)log(total + sum_of_weights(padding, count, repeat(*most), row->sharpness));
}

/* One token per row of logits (rows, vocab), among the first `drawable`, and its log-probability among all: the
 * likeliest where the temperature is 0, else where the cumulative probability of the tempered distribution passes
 * the row's number in [0, 1). */
void draw(const float *logits, const float *temperatures, const double *uniforms, int64_t *tokens, float *logprobs,
          int rows, int vocab, int drawable, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int r = 0; r < rows; r++) {
        const float *own = logits + (size_t)r * vocab;
        float temperature = temperatures[r] > 0 ? temperatures[r] : 1.0f, sums[num_stretches(drawable)];
        Row row = {own, vocab, drawable, repeat(1.0f / temperature)};
        int token = likeliest(own, drawable);
        float most = own[token];
        double total = weigh_drawable(&row, most, sums);
        if (temperatures[r] > 0) token = pass_in(&row, most, sums, uniforms[r] * total);
        float log_of_total = log_total(&row, &most, total);
        tokens[r] = token;
        logprobs[r] = (own[token] - most) / temperature - log_of_total;
    }
}

/* For each row of logits (rows, vocab) what turns them into log-probabilities, (logit - mosts) / temperature - log_totals,
 * to the bit those of `draw`. Temperatures are above 0. */
void normalize(const float *logits, const float *temperatures, float *mosts, float *log_totals, int rows, int vocab,
               int drawable, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int r = 0; r < rows; r++) {
        const float *own = logits + (size_t)r * vocab;
        float sums[num_stretches(drawable)];
        Row row = {own, vocab, drawable, repeat(1.0f / temperatures[r])};
        mosts[r] = greatest(own, drawable);
        log_totals[r] = log_total(&row, &mosts[r], weigh_drawable(&row, mosts[r], sums));
    }
}
