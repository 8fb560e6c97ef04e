/* One new token for each of several cached sequences, through all layers of a model in one call.
 *
 * A layer takes a dozen short kernels for so few rows, and the way from each to the next through Python took as long as
 * the kernels. The results are those of the same kernels one by one, to the bit. */
#include "kernels.h"

enum { QKV, OUTPUT, GATE_UP, DOWN, WEIGHTS }; /* the linear layers of a decoder layer */

typedef struct {
    Weight weights[WEIGHTS];
    const scalar *attn_norm, *mlp_norm;
    const scalar *q_norm, *k_norm; /* (dim,), or null in models that do not norm heads */
    int window;                    /* how many of the newest tokens are seen */
} DecoderLayer;

typedef struct {
    const DecoderLayer *layers;
    int num_layers, heads, kv_heads, dim;
    float eps;
} Model;

/* What an adapter adds to one weight: x A^T B^T, or nothing where `a.packed` is null. */
typedef struct {
    Weight a, b;
} LowRank;

/* An adapter, and the rows that it changes. */
typedef struct {
    const LowRank (*low_ranks)[WEIGHTS]; /* layer by layer */
    const int64_t *rows;                 /* in ascending order, or null: all of them */
    int num_rows;
    float scale;
} AdaptedRows;

/* Buffers for intermediate results, row by row, each as wide as the widest that is kept in it. */
typedef struct {
    scalar *normed, *qkv, *rotated, *attended, *gate_up, *gated, *update;
    scalar *adapter_inputs, *adapter_outputs, *low_rank_hidden; /* of the rows of one adapter */
    float *scratch; /* `scratch_size(capacity, dim)` floats for each thread */
} Workspace;

typedef struct {
    Workspace workspace;
    scalar *x;               /* (rows, hidden): embeddings before, hidden states after */
    const scalar *cos, *sin; /* (rows, dim), as `rotate` takes them */
    scalar *keys, *values;   /* the cache: (layers, cache_rows, kv_heads, capacity, dim) */
    const int64_t *positions;
    const AdaptedRows *adapted;
    int num_adapted, rows, cache_rows, capacity, threads;
} Step;

static void copy_rows(const int64_t *from, const int64_t *to, int count, int width, const scalar *x, scalar *y) {
    for (int i = 0; i < count; i++)
        memcpy(y + (to ? to[i] : i) * width, x + (from ? from[i] : i) * width, width * sizeof(scalar));
}

/* y += scale * x A^T B^T on the rows of one adapter. */
static void add_low_rank(const AdaptedRows *adapted, const LowRank *low_rank, const scalar *x, scalar *y,
                         const Step *step) {
    const Workspace *workspace = &step->workspace;
    int inputs = low_rank->a.inputs, outputs = low_rank->b.outputs;
    int count = adapted->rows ? adapted->num_rows : step->rows;
    const scalar *own_x = adapted->rows ? workspace->adapter_inputs : x;
    scalar *own_y = adapted->rows ? workspace->adapter_outputs : y;
    if (adapted->rows) {
        copy_rows(adapted->rows, NULL, count, inputs, x, workspace->adapter_inputs);
        copy_rows(adapted->rows, NULL, count, outputs, y, workspace->adapter_outputs);
    }
    linear(&low_rank->a, own_x, inputs, workspace->low_rank_hidden, count, step->threads);
    add_linear(&low_rank->b, workspace->low_rank_hidden, low_rank->a.outputs, own_y, count, adapted->scale,
               step->threads);
    if (adapted->rows) copy_rows(NULL, adapted->rows, count, outputs, own_y, y);
}

/* y = the linear layer `which` of x, adapters included. */
static void project(const Model *model, const Step *step, int layer, int which, const scalar *x, scalar *y) {
    const Weight *weight = &model->layers[layer].weights[which];
    linear(weight, x, weight->inputs, y, step->rows, step->threads);
    for (int i = 0; i < step->num_adapted; i++) {
        const LowRank *low_rank = &step->adapted[i].low_ranks[layer][which];
        if (low_rank->a.packed) add_low_rank(&step->adapted[i], low_rank, x, y, step);
    }
}

/* x += y, `count` scalars. */
static void add(scalar *x, const scalar *y, size_t count) {
    for (size_t i = 0; i < count; i += LANES) {
        int left = count - i < LANES ? (int)(count - i) : LANES;
        store(x + i, left, load(x + i, left) + load(y + i, left));
    }
}

/* Attend with the heads of the fused projection in `workspace.qkv`, normed where the model does that, and rotated. */
static void attend_layer(const Model *model, const Step *step, int layer) {
    const DecoderLayer *own = &model->layers[layer];
    const Workspace *workspace = &step->workspace;
    int heads = model->heads, kv_heads = model->kv_heads, dim = model->dim, rows = step->rows;
    int rotated_width = (heads + kv_heads) * dim, width = rotated_width + kv_heads * dim;
    if (own->q_norm) {
#pragma omp parallel for num_threads(step->threads) if (rows > step->threads)
        for (int row = 0; row < rows; row++) {
            scalar *q = workspace->qkv + (size_t)row * width, *k = q + heads * dim;
            rms_norm(q, own->q_norm, q, heads, dim, model->eps, 1);
            rms_norm(k, own->k_norm, k, kv_heads, dim, model->eps, 1);
        }
    }
    rotate(workspace->qkv, width, step->cos, step->sin, workspace->rotated, rows, heads + kv_heads, dim, step->threads);
    size_t start = (size_t)layer * step->cache_rows * kv_heads * step->capacity * dim;
    append_and_attend(workspace->rotated, rotated_width, workspace->rotated + heads * dim, rotated_width,
                      workspace->qkv + rotated_width, width, step->keys + start, step->values + start, step->positions,
                      workspace->attended, workspace->scratch, rows, heads, kv_heads, dim, step->capacity, own->window,
                      step->threads);
}

/* Decode one token per row, at its position; its keys and values are appended to the cache's first rows. */
void decode(const Model *model, const Step *step) {
    const Workspace *workspace = &step->workspace;
    int rows = step->rows, threads = step->threads;
    for (int layer = 0; layer < model->num_layers; layer++) {
        const DecoderLayer *own = &model->layers[layer];
        int hidden = own->weights[QKV].inputs, intermediate = own->weights[DOWN].inputs;
        rms_norm(step->x, own->attn_norm, workspace->normed, rows, hidden, model->eps, threads);
        project(model, step, layer, QKV, workspace->normed, workspace->qkv);
        attend_layer(model, step, layer);
        project(model, step, layer, OUTPUT, workspace->attended, workspace->update);
        add(step->x, workspace->update, (size_t)rows * hidden);
        rms_norm(step->x, own->mlp_norm, workspace->normed, rows, hidden, model->eps, threads);
        project(model, step, layer, GATE_UP, workspace->normed, workspace->gate_up);
        swiglu(workspace->gate_up, workspace->gated, rows, intermediate, threads);
        project(model, step, layer, DOWN, workspace->gated, workspace->update);
        add(step->x, workspace->update, (size_t)rows * hidden);
    }
}
