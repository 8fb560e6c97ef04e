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

/* One token per row of logits (rows, vocab), among the first `drawable`, and its log-probability among all: the
 * likeliest where the temperature is 0, else where the cumulative probability of the tempered distribution passes
 * the row's number in [0, 1). */
void draw(const float *logits, const float *temperatures, const double *uniforms, int64_t *tokens, float *logprobs,
          int rows, int vocab, int drawable, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int row = 0; row < rows; row++) {
        const float *own = logits + (size_t)row * vocab;
        float temperature = temperatures[row] > 0 ? temperatures[row] : 1.0f, top = greatest(own, vocab);
        Floats most = repeat(top), sharpness = repeat(1.0f / temperature);
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
