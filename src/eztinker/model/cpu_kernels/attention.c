/* Causal attention of packed sequences, and of one new token per cached sequence. */
#include <math.h>
#include <omp.h>

#include "kernels.h"

#define TASK_QUERIES 48 /* about so many go to a thread at once, while their keys and values are in its cache */

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

/* The queries of successive tokens of one sequence, of the heads that share keys and values. A query is that of token
 * `index / group` and head `index % group`. */
typedef struct {
    const number *q;
    number *out;
    int64_t q_stride, out_stride; /* numbers from token to token */
    int tokens, group, dim;
    Seen seen;  /* by the last token; each token before it sees one less */
    int window; /* how many of these, the newest ones, take part */
} Queries;

/* How many tokens the queries of `token` see. */
static inline int num_seen(const Queries *queries, int token) {
    return queries->seen.before.count + queries->seen.own.count - (queries->tokens - 1 - token);
}

#include "register_attention.h"
#ifdef TILED
#include "tiled_attention.h"
static inline int fits_tiles(int dim) { return dim % TILE_INPUTS == 0; }
#endif

/* The floats of `scratch` that `attend` takes for each thread. */
int64_t scratch_size(int most_seen, int dim) {
#ifdef TILED
    if (fits_tiles(dim)) return tiled_scratch_size(most_seen, dim);
#endif
    (void)dim;
    return register_scratch_size(most_seen);
}

/* All outputs, if no query sees more than `most_seen` tokens. */
static void attend(const Queries *queries, float *scratch, int most_seen) {
#ifdef TILED
    if (fits_tiles(queries->dim)) {
        attend_in_tiles(queries, scratch, most_seen);
        return;
    }
#endif
    attend_in_registers(queries, scratch, most_seen);
}

/* What a thread calls when it is done. */
static inline void leave_attention(void) {
#ifdef TILED
    _tile_release();
#endif
}

/* One new token per sequence: append its key and value, (rows, kv_heads, dim), to the row's cache at its position, and
 * attend to the cache. Caches are (rows, kv_heads, capacity, dim); q and out are (rows, heads, dim); q, k and v have
 * their strides from row to row. A row sees its newest `window` tokens. `scratch` is
 * `scratch_size(capacity, dim)` floats for each thread. */
void append_and_attend(const number *q, int64_t q_stride, const number *k, int64_t k_stride, const number *v,
                       int64_t v_stride, number *keys, number *values, const int64_t *positions, number *out, float *scratch,
                       int rows, int heads, int kv_heads, int dim, int capacity, int window, int threads) {
    int group = heads / kv_heads;
#pragma omp parallel num_threads(threads)
    {
        float *own_scratch = scratch + omp_get_thread_num() * scratch_size(capacity, dim);
#pragma omp for schedule(static)
        for (int task = 0; task < rows * kv_heads; task++) {
            int row = task / kv_heads, kv_head = task % kv_heads, position = (int)positions[row];
            number *own_keys = keys + (size_t)task * capacity * dim, *own_values = values + (size_t)task * capacity * dim;
            memcpy(own_keys + (size_t)position * dim, k + row * k_stride + kv_head * dim, dim * sizeof(number));
            memcpy(own_values + (size_t)position * dim, v + row * v_stride + kv_head * dim, dim * sizeof(number));
            Queries queries = {
                .q = q + row * q_stride + kv_head * group * dim,
                .out = out + ((size_t)row * heads + kv_head * group) * dim,
                .tokens = 1,
                .group = group,
                .dim = dim,
                .seen.own = {own_keys, own_values, dim, dim, position + 1},
                .window = window,
            };
            attend(&queries, own_scratch, capacity);
        }
        leave_attention();
    }
}

/* Whole sequences, packed: token t sees the tokens from starts[t] up to itself, behind `num_before` shared ones whose
 * keys and values are (num_before, kv_heads, dim). q, k and v have their strides from token to token; out is
 * (tokens, heads, dim). `scratch` is `scratch_size(most_seen, dim)` floats for each thread. */
void attend_packed(const number *q, int64_t q_stride, const number *k, int64_t k_stride, const number *v, int64_t v_stride,
                   const number *keys_before, const number *values_before, const int64_t *starts, number *out,
                   float *scratch, int tokens, int heads, int kv_heads, int dim, int num_before, int most_seen,
                   int window, int threads) {
    int group = heads / kv_heads, step = group < TASK_QUERIES ? TASK_QUERIES / group : 1;
    int num_tasks = (tokens + step - 1) / step * kv_heads;
    int64_t stride = (int64_t)kv_heads * dim, out_stride = (int64_t)heads * dim;
#pragma omp parallel num_threads(threads)
    {
        float *own_scratch = scratch + omp_get_thread_num() * scratch_size(most_seen, dim);
#pragma omp for schedule(dynamic)
        for (int left = num_tasks; left > 0; left--) { /* the last tokens first: they see most */
            int task = left - 1, kv_head = task % kv_heads, end = (task / kv_heads + 1) * step;
            if (end > tokens) end = tokens;
            for (int token = task / kv_heads * step, next; token < end; token = next) {
                int start = (int)starts[token];
                for (next = token + 1; next < end && starts[next] == start;) next++;
                Run before = {keys_before + kv_head * dim, values_before + kv_head * dim, stride, stride, num_before};
                Run own = {k + start * k_stride + kv_head * dim, v + start * v_stride + kv_head * dim, k_stride, v_stride,
                           next - start};
                Queries queries = {
                    .q = q + token * q_stride + kv_head * group * dim,
                    .out = out + token * out_stride + kv_head * group * dim,
                    .q_stride = q_stride,
                    .out_stride = out_stride,
                    .tokens = next - token,
                    .group = group,
                    .dim = dim,
                    .seen = {before, own},
                    .window = window,
                };
                attend(&queries, own_scratch, most_seen);
            }
        }
        leave_attention();
    }
}
