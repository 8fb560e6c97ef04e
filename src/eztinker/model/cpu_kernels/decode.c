/* One new token for each of several cached sequences, through all layers of a model in one call.
 *
 * A layer takes a dozen short kernels for so few rows, and the way from each to the next through Python took as long as
 * the kernels. The results are those of the same kernels one by one, to the bit. */
#include "kernels.h"

enum { QKV, OUTPUT, GATE_UP, DOWN, WEIGHTS }; /* the linear layers of a decoder layer */

typedef struct {
    Weight weights[WEIGHTS];
    const number *attn_norm, *mlp_norm;
    const number *q_norm, *k_norm; /* (dim,), or null in models that do not norm heads */
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

/* Room for what is computed on the way, row by row, each as wide as the widest that is kept in it. */
typedef struct {
    number *normed, *qkv, *turned, *attended, *gate_up, *gated, *update;
    number *some_inputs, *some_outputs, *low; /* of the rows of one adapter */
    float *scratch;                           /* `scratch_size(capacity, dim)` floats for each thread */
} Workspace;

typedef struct {
    Workspace room;
    number *x;               /* (rows, hidden): embeddings before, hidden states after */
    const number *cos, *sin; /* (rows, dim), as `rotate` takes them */
    number *keys, *values;   /* the cache: (layers, cache_rows, kv_heads, capacity, dim) */
    const int64_t *positions;
    const AdaptedRows *adapted;
    int num_adapted, rows, cache_rows, capacity, threads;
} Step;

static void copy_rows(const int64_t *from, const int64_t *to, int count, int width, const number *x, number *y) {
    for (int i = 0; i < count; i++)
        memcpy(y + (to ? to[i] : i) * width, x + (from ? from[i] : i) * width, width * sizeof(number));
}

/* y += scale * x A^T B^T on the rows of one adapter. */
static void add_low_rank(const AdaptedRows *adapted, const LowRank *low_rank, const number *x, number *y, const Step *step) {
    const Workspace *room = &step->room;
    int inputs = low_rank->a.inputs, outputs = low_rank->b.outputs;
    int count = adapted->rows ? adapted->num_rows : step->rows;
    const number *own_x = adapted->rows ? room->some_inputs : x;
    number *own_y = adapted->rows ? room->some_outputs : y;
    if (adapted->rows) {
        copy_rows(adapted->rows, NULL, count, inputs, x, room->some_inputs);
        copy_rows(adapted->rows, NULL, count, outputs, y, room->some_outputs);
    }
    linear(&low_rank->a, own_x, inputs, room->low, count, step->threads);
    add_linear(&low_rank->b, room->low, low_rank->a.outputs, own_y, count, adapted->scale, step->threads);
    if (adapted->rows) copy_rows(NULL, adapted->rows, count, outputs, own_y, y);
}

/* y = the linear layer of x, adapters included. */
static void project(const Model *model, const Step *step, int layer, int which, const number *x, number *y) {
    const Weight *weight = &model->layers[layer].weights[which];
    linear(weight, x, weight->inputs, y, step->rows, step->threads);
    for (int i = 0; i < step->num_adapted; i++) {
        const LowRank *low_rank = &step->adapted[i].low_ranks[layer][which];
        if (low_rank->a.packed) add_low_rank(&step->adapted[i], low_rank, x, y, step);
    }
}

/* x += y, `count` numbers. */
static void add(number *x, const number *y, size_t count) {
    for (size_t i = 0; i < count; i += LANES) {
        int left = count - i < LANES ? (int)(count - i) : LANES;
        store(x + i, left, load(x + i, left) + load(y + i, left));
    }
}

/* The heads of the fused projection in `room.qkv`: normed where the model does that, turned, and attended to. */
static void attend_layer(const Model *model, const Step *step, int layer) {
    const DecoderLayer *own = &model->layers[layer];
    const Workspace *room = &step->room;
    int heads = model->heads, kv_heads = model->kv_heads, dim = model->dim, rows = step->rows;
    int turned_width = (heads + kv_heads) * dim, width = turned_width + kv_heads * dim;
    if (own->q_norm) {
#pragma omp parallel for num_threads(step->threads) if (rows > step->threads)
        for (int row = 0; row < rows; row++) {
            number *q = room->qkv + (size_t)row * width, *k = q + heads * dim;
            rms_norm(q, own->q_norm, q, heads, dim, model->eps, 1);
            rms_norm(k, own->k_norm, k, kv_heads, dim, model->eps, 1);
        }
    }
    rotate(room->qkv, width, step->cos, step->sin, room->turned, rows, heads + kv_heads, dim, step->threads);
    size_t start = (size_t)layer * step->cache_rows * kv_heads * step->capacity * dim;
    append_and_attend(room->turned, turned_width, room->turned + heads * dim, turned_width, room->qkv + turned_width, width,
                      step->keys + start, step->values + start, step->positions, room->attended, room->scratch, rows, heads,
                      kv_heads, dim, step->capacity, own->window, step->threads);
}

/* One token per row, at its position: its keys and values are appended to the cache's first rows. */
void decode(const Model *model, const Step *step) {
    const Workspace *room = &step->room;
    int rows = step->rows, threads = step->threads;
    for (int layer = 0; layer < model->num_layers; layer++) {
        const DecoderLayer *own = &model->layers[layer];
        int hidden = own->weights[QKV].inputs, intermediate = own->weights[DOWN].inputs;
        rms_norm(step->x, own->attn_norm, room->normed, rows, hidden, model->eps, threads);
        project(model, step, layer, QKV, room->normed, room->qkv);
        attend_layer(model, step, layer);
        project(model, step, layer, OUTPUT, room->attended, room->update);
        add(step->x, room->update, (size_t)rows * hidden);
        rms_norm(step->x, own->mlp_norm, room->normed, rows, hidden, model->eps, threads);
        project(model, step, layer, GATE_UP, room->normed, room->gate_up);
        swiglu(room->gate_up, room->gated, rows, intermediate, threads);
        project(model, step, layer, DOWN, room->gated, room->update);
        add(step->x, room->update, (size_t)rows * hidden);
    }
}
