/* Causal attention of packed sequences, and of one new token per cached sequence. */
#include <math.h>
#include <omp.h>

#include "kernels.h"

#define TASK_QUERIES 48 /* about so many go to a thread at once, while their keys and values are in its cache */

/* Keys and values of successive tokens, with the strides from one to the next in scalars. */
typedef struct {
    const scalar *keys, *values;
    int64_t key_stride, value_stride;
    int count;
} KVRun;

/* The keys and values that one query sees: a prefix shared by all sequences, then those of its own sequence. */
typedef struct {
    KVRun prefix, own;
} Visible;

static inline const scalar *key_at(const Visible *visible, int token) {
    int own = token - visible->prefix.count;
    return own < 0 ? visible->prefix.keys + token * visible->prefix.key_stride
                   : visible->own.keys + own * visible->own.key_stride;
}

static inline const scalar *value_at(const Visible *visible, int token) {
    int own = token - visible->prefix.count;
    return own < 0 ? visible->prefix.values + token * visible->prefix.value_stride
                   : visible->own.values + own * visible->own.value_stride;
}

/* The queries of successive tokens of one sequence, of the heads that share keys and values. A query is that of token
 * `index / group` and head `index % group`. */
typedef struct {
    const scalar *q;
    scalar *out;
    int64_t q_stride, out_stride; /* scalars from token to token */
    int tokens, group, dim;
    Visible visible; /* to the last token; each token before it sees one less */
    int window;      /* how many of these, the newest ones, take part */
} Queries;

/* The number of tokens that the queries of `token` see. */
static inline int num_visible(const Queries *queries, int token) {
    return queries->visible.prefix.count + queries->visible.own.count - (queries->tokens - 1 - token);
}

#include "register_attention.h"
#ifdef TILED
#include "tiled_attention.h"
static inline int fits_tiles(int dim) { return dim % TILE_INPUTS == 0; }
#endif

/* Floats of scratch memory that `attend` takes for each thread. */
int64_t scratch_size(int max_visible, int dim) {
#ifdef TILED
    if (fits_tiles(dim)) return tiled_scratch_size(max_visible, dim);
#endif
    (void)dim;
    return register_scratch_size(max_visible);
}

/* Compute all outputs; no query sees more than `max_visible` tokens. */
static void attend(const Queries *queries, float *scratch, int max_visible) {
#ifdef TILED
    if (fits_tiles(queries->dim)) {
        attend_in_tiles(queries, scratch, max_visible);
        return;
    }
#endif
    attend_in_registers(queries, scratch, max_visible);
}

/* Leave the tiles unconfigured; every thread calls this when it is done. */
static inline void release_tiles(void) {
#ifdef TILED
    _tile_release();
#endif
}

/* One new token per sequence: append its key and value, (rows, kv_heads, dim), to the row's cache at its position, and
 * attend to the cache. Caches are (rows, kv_heads, capacity, dim); q and out are (rows, heads, dim); q, k and v have
 * their strides from row to row. A row sees its newest `window` tokens. `scratch` is
 * `scratch_size(capacity, dim)` floats for each thread. */
void append_and_attend(const scalar *q, int64_t q_stride, const scalar *k, int64_t k_stride, const scalar *v,
                       int64_t v_stride, scalar *keys, scalar *values, const int64_t *positions, scalar *out,
                       float *scratch, int rows, int heads, int kv_heads, int dim, int capacity, int window,
                       int threads) {
    int group = heads / kv_heads;
#pragma omp parallel num_threads(threads)
    {
        float *own_scratch = scratch + omp_get_thread_num() * scratch_size(capacity, dim);
#pragma omp for schedule(static)
        for (int task = 0; task < rows * kv_heads; task++) {
            int row = task / kv_heads, kv_head = task % kv_heads, position = (int)positions[row];
            scalar *own_keys = keys + (size_t)task * capacity * dim,
                   *own_values = values + (size_t)task * capacity * dim;
            memcpy(own_keys + (size_t)position * dim, k + row * k_stride + kv_head * dim, dim * sizeof(scalar));
            memcpy(own_values + (size_t)position * dim, v + row * v_stride + kv_head * dim, dim * sizeof(scalar));
            Queries queries = {
                .q = q + row * q_stride + kv_head * group * dim,
                .out = out + ((size_t)row * heads + kv_head * group) * dim,
                .tokens = 1,
                .group = group,
                .dim = dim,
                .visible.own = {own_keys, own_values, dim, dim, position + 1},
                .window = window,
            };
            attend(&queries, own_scratch, capacity);
        }
        release_tiles();
    }
}

/* Whole sequences, packed: token t sees the tokens from starts[t] up to itself, behind `num_prefix` shared ones whose
 * keys and values are (num_prefix, kv_heads, dim). q, k and v have their strides from token to token; out is
 * (tokens, heads, dim). `scratch` is `scratch_size(max_visible, dim)` floats for each thread. */
void attend_packed(const scalar *q, int64_t q_stride, const scalar *k, int64_t k_stride, const scalar *v,
                   int64_t v_stride, const scalar *prefix_keys, const scalar *prefix_values, const int64_t *starts,
                   scalar *out, float *scratch, int tokens, int heads, int kv_heads, int dim, int num_prefix,
                   int max_visible, int window, int threads) {
    int group = heads / kv_heads, step = group < TASK_QUERIES ? TASK_QUERIES / group : 1;
    int num_tasks = (tokens + step - 1) / step * kv_heads;
    int64_t stride = (int64_t)kv_heads * dim, out_stride = (int64_t)heads * dim;
#pragma omp parallel num_threads(threads)
    {
        float *own_scratch = scratch + omp_get_thread_num() * scratch_size(max_visible, dim);
#pragma omp for schedule(dynamic)
        for (int left = num_tasks; left > 0; left--) { /* the last tokens first: they see most */
            int task = left - 1, kv_head = task % kv_heads, end = (task / kv_heads + 1) * step;
            if (end > tokens) end = tokens;
            for (int token = task / kv_heads * step, next; token < end; token = next) {
                int start = (int)starts[token];
                for (next = token + 1; next < end && starts[next] == start;) next++;
                KVRun prefix = {prefix_keys + kv_head * dim, prefix_values + kv_head * dim, stride, stride, num_prefix};
                KVRun own = {k + start * k_stride + kv_head * dim, v + start * v_stride + kv_head * dim, k_stride,
                             v_stride, next - start};
                Queries queries = {
                    .q = q + token * q_stride + kv_head * group * dim,
                    .out = out + token * out_stride + kv_head * group * dim,
                    .q_stride = q_stride,
                    .out_stride = out_stride,
                    .tokens = next - token,
                    .group = group,
                    .dim = dim,
                    .visible = {prefix, own},
                    .window = window,
                };
                attend(&queries, own_scratch, max_visible);
            }
        }
        release_tiles();
    }
}
