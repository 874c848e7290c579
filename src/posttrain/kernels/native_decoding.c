/* One token of each of B sequences: what stands between the products of a decode pass.

   Compiled by core/native_library.py for one model, with KEY_SIZE, VALUE_SIZE (multiples of 16), GROUP (query heads
   of each key/value head) and, for bf16 instead of fp32, BF16. Tensors of features are laid features by sequences,
   [F, B], so that sequences lie in the lanes of vectors and a product of weights reads both operands as they lie.
   Every sequence's arithmetic has one order, whatever its neighbours are. Results round where the architectures'
   own code rounds, but that scores and weights of attention stay in fp32. */

#include "native_lanes.h"

#include <stdlib.h>

#define NORM_CHUNK 32 /* sequences of a task */

/* hidden += delta, normed = hidden / rms(hidden) * gain; [C, B] each, delta may be null.
   Zhang and Sennrich, arXiv 1910.07467; rounded before the gain, as Llama does. */
void add_and_normalise(element *hidden, const element *delta, const element *gain, element *normed, int64_t C,
                       int64_t B, float epsilon) {
    int64_t chunks = (B + NORM_CHUNK - 1) / NORM_CHUNK;
#pragma omp parallel for schedule(static)
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        int64_t first = chunk * NORM_CHUNK, count = B - first < NORM_CHUNK ? B - first : NORM_CHUNK;
        float totals[NORM_CHUNK] = {0}, scale[NORM_CHUNK];
        for (int64_t begin = 0; begin < C; begin += 64) { /* in parts, so that rounding stays small */
            int64_t end = begin + 64 < C ? begin + 64 : C;
            float part[NORM_CHUNK] = {0};
            for (int64_t c = begin; c < end; c++) {
                element *row = hidden + c * B + first;
                if (delta) {
                    const element *more = delta + c * B + first;
                    for (int64_t b = 0; b < count; b++) row[b] = write(read(row[b]) + read(more[b]));
                }
                for (int64_t b = 0; b < count; b++) part[b] += read(row[b]) * read(row[b]);
            }
            for (int64_t b = 0; b < count; b++) totals[b] += part[b];
        }
        for (int64_t b = 0; b < count; b++) scale[b] = 1.0f / __builtin_sqrtf(totals[b] / (float)C + epsilon);
        for (int64_t c = 0; c < C; c++) {
            const element *row = hidden + c * B + first;
            element *out = normed + c * B + first;
            float factor = read(gain[c]);
            for (int64_t b = 0; b < count; b++) out[b] = write(round_once(read(row[b]) * scale[b]) * factor);
        }
    }
}

/* mixed[i] = silu(mixed[i]) * mixed[i + count]: the gated unit of arXiv 2002.05202 without its products. */
void gate(element *mixed, int64_t count) {
    int64_t whole = count / LANES * LANES;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < whole; i += LANES) {
        floats x = read_lanes(mixed + i);
        write_lanes(mixed + i, round_lanes(x / (1.0f + exponential(-x))) * read_lanes(mixed + i + count));
    }
    for (int64_t i = whole; i < count; i++) {
        float x = read(mixed[i]);
        floats power = exponential((floats){-x});
        mixed[i] = write(round_once(x / (1.0f + power[0])) * read(mixed[i + count]));
    }
}

typedef struct {
    int64_t B, K;           /* sequences, key/value heads; GROUP * K query heads */
    int64_t row_tokens;     /* that a row of `keys` and `values` holds */
    int64_t prompt_tokens;  /* that a shared prompt's row holds */
    int64_t window;         /* 0: none */
    float scale;            /* of the scores */
    float epsilon;          /* of the head norms */
} Shape;

/* One head of some sequences: norm, rotation (rotate_half), and the way into rows. */
static void place_head(const Shape *s, const element *features, const element *gain, const element *cos,
                       const element *sin, int64_t size, int64_t first, int64_t count, element **rows) {
    float x[KEY_SIZE > VALUE_SIZE ? KEY_SIZE : VALUE_SIZE][LANES];
    for (int64_t d = 0; d < size; d++)
        for (int64_t b = 0; b < count; b++) x[d][b] = read(features[d * s->B + first + b]);
    if (gain) {
        float totals[LANES] = {0};
        for (int64_t d = 0; d < size; d++)
            for (int64_t b = 0; b < count; b++) totals[b] += x[d][b] * x[d][b];
        for (int64_t b = 0; b < count; b++) totals[b] = 1.0f / __builtin_sqrtf(totals[b] / (float)size + s->epsilon);
        for (int64_t d = 0; d < size; d++)
            for (int64_t b = 0; b < count; b++) x[d][b] = round_once(round_once(x[d][b] * totals[b]) * read(gain[d]));
    }
    if (cos) {
        int64_t half = size / 2;
        for (int64_t d = 0; d < half; d++) {
            const element *c1 = cos + d * s->B + first, *c2 = c1 + half * s->B;
            const element *s1 = sin + d * s->B + first, *s2 = s1 + half * s->B;
            for (int64_t b = 0; b < count; b++) {
                float left = x[d][b], right = x[d + half][b];
                x[d][b] = round_once(left * read(c1[b])) + round_once(-right * read(s1[b]));
                x[d + half][b] = round_once(right * read(c2[b])) + round_once(left * read(s2[b]));
            }
        }
    }
    for (int64_t b = 0; b < count; b++)
        for (int64_t d = 0; d < size; d++) rows[b][d] = write(x[d][b]);
}

/* Take the product of queries, keys and values apart: queries to [B, H, KEY_SIZE], keys and values of the new token
   into the sequences' rows [R, K, row_tokens, size], behind the `lengths` that are there. cos, sin are
   [KEY_SIZE, B]; the head norms' gains may be null. */
void place(const Shape *s, const element *mixed, const element *cos, const element *sin, const element *query_gain,
           const element *key_gain, const int64_t *lengths, element *query, element *keys, element *values) {
    int64_t H = GROUP * s->K, heads = H + 2 * s->K, chunks = (s->B + LANES - 1) / LANES;
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        for (int64_t head = 0; head < heads; head++) {
            int64_t first = chunk * LANES, count = s->B - first < LANES ? s->B - first : LANES;
            element *rows[LANES];
            if (head < H) {
                for (int64_t b = 0; b < count; b++) rows[b] = query + ((first + b) * H + head) * KEY_SIZE;
                place_head(s, mixed + head * KEY_SIZE * s->B, query_gain, cos, sin, KEY_SIZE, first, count, rows);
                continue;
            }
            int64_t k = head - H, is_key = k < s->K, size = is_key ? KEY_SIZE : VALUE_SIZE;
            if (!is_key) k -= s->K;
            for (int64_t b = 0; b < count; b++) {
                int64_t place = ((first + b) * s->K + k) * s->row_tokens + lengths[first + b];
                rows[b] = (is_key ? keys : values) + place * size;
            }
            const element *from = mixed + (H + s->K) * KEY_SIZE * s->B + k * VALUE_SIZE * s->B;
            if (is_key)
                place_head(s, mixed + head * KEY_SIZE * s->B, key_gain, cos, sin, KEY_SIZE, first, count, rows);
            else
                place_head(s, from, 0, 0, 0, VALUE_SIZE, first, count, rows);
        }
}

/* Vectors of LANES partial sums each -> one vector of their sums, in halves, quarters and so on. */
static inline floats sum_lanes(floats *x) {
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define ADD_PAIR(i)                                            \
    (__builtin_shufflevector(x[2 * (i)], x[2 * (i) + 1], EVEN) + \
     __builtin_shufflevector(x[2 * (i)], x[2 * (i) + 1], ODD))
    for (int count = LANES / 2; count > 1; count /= 2)
        for (int i = 0; i < count; i++) x[i] = ADD_PAIR(i);
    return ADD_PAIR(0);
}

/* Keys or values of some tokens, which lie end to end, in fp32; those two blocks on are asked for ahead of time, since
   sequences are too short for the hardware to see it coming. */
static inline void read_block(floats *block, const element *from, int64_t tokens, int64_t size) {
    for (int64_t i = 0; i < tokens * size / LANES; i++) {
        block[i] = read_lanes(from + i * LANES);
        __builtin_prefetch(from + i * LANES + 2 * LANES * size);
    }
}

/* Scores of GROUP queries against `count` keys that lie end to end; `scores` has room for a last whole block. */
static void score(const floats query[GROUP][KEY_SIZE / LANES], const element *keys, int64_t count, int64_t stride,
                  float *scores) {
    for (int64_t begin = 0; begin < count; begin += LANES) {
        int64_t tokens = count - begin < LANES ? count - begin : LANES;
        floats block[LANES][KEY_SIZE / LANES];
        read_block(block[0], keys + begin * KEY_SIZE, tokens, KEY_SIZE);
        for (int64_t t = tokens; t < LANES; t++)
            for (int c = 0; c < KEY_SIZE / LANES; c++) block[t][c] = (floats){0};
        for (int g = 0; g < GROUP; g++) {
            floats sums[LANES];
            for (int t = 0; t < LANES; t++) {
                floats sum = query[g][0] * block[t][0];
                for (int c = 1; c < KEY_SIZE / LANES; c++) sum += query[g][c] * block[t][c];
                sums[t] = sum;
            }
            *(floats *)(scores + g * stride + begin) = sum_lanes(sums);
        }
    }
}

/* output[g] += sum of weights[g][t] * values[t] over tokens, even ones and odd ones apart. */
static void weigh(const float *weights, const element *values, int64_t count, int64_t stride,
                  floats output[GROUP][VALUE_SIZE / LANES]) {
    for (int64_t begin = 0; begin < count; begin += LANES) {
        int64_t tokens = count - begin < LANES ? count - begin : LANES;
        floats block[LANES][VALUE_SIZE / LANES];
        read_block(block[0], values + begin * VALUE_SIZE, tokens, VALUE_SIZE);
        for (int g = 0; g < GROUP; g++) {
            const float *w = weights + g * stride + begin;
            floats even[VALUE_SIZE / LANES], odd[VALUE_SIZE / LANES];
            for (int c = 0; c < VALUE_SIZE / LANES; c++) even[c] = output[g][c], odd[c] = (floats){0};
            int64_t t = 0;
            for (; t + 1 < tokens; t += 2)
                for (int c = 0; c < VALUE_SIZE / LANES; c++) {
                    even[c] += w[t] * block[t][c];
                    odd[c] += w[t + 1] * block[t + 1][c];
                }
            if (t < tokens)
                for (int c = 0; c < VALUE_SIZE / LANES; c++) even[c] += w[t] * block[t][c];
            for (int c = 0; c < VALUE_SIZE / LANES; c++) output[g][c] = even[c] + odd[c];
        }
    }
}

/* Softmax of scores in place, without the division; returns the sum. `scores` has room for a last whole block. */
static float weigh_scores(float *scores, int64_t count, float scale) {
    const floats zero = {0};
    for (int64_t t = count; t % LANES; t++) scores[t] = -__builtin_inff();
    floats most = zero - __builtin_inff(), total = zero;
    for (int64_t t = 0; t < count; t += LANES) {
        floats x = *(floats *)(scores + t) * scale;
        *(floats *)(scores + t) = x;
        most = choose(x > most, x, most);
    }
    float largest = -__builtin_inff(), sum = 0;
    for (int i = 0; i < LANES; i++) largest = most[i] > largest ? most[i] : largest;
    for (int64_t t = 0; t < count; t += LANES) {
        floats x = exponential(*(floats *)(scores + t) - largest);
        *(floats *)(scores + t) = x;
        total += x;
    }
    for (int i = 0; i < LANES; i++) sum += total[i];
    return sum;
}

/* Attention of one new token of each sequence over its shared prompt and its own row, the new token included.
   query [B, H, KEY_SIZE]; keys, values [R, K, row_tokens, size]; prompts likewise with prompt_tokens, of which
   slots[b] is the sequence's and prompt_lengths[b] its length (null: no shared prompts); output [B, H, VALUE_SIZE].
   Returns 0, or 1 where memory ran out. */
int attend(const Shape *s, const element *query, const element *keys, const element *values,
           const int64_t *lengths, const element *prompt_keys, const element *prompt_values, const int64_t *slots,
           const int64_t *prompt_lengths, element *output) {
    int failed = 0;
    int64_t room = (prompt_lengths ? s->prompt_tokens : 0) + s->row_tokens + 2 * LANES;
#pragma omp parallel
    {
        float *scores = aligned_alloc(64, ((GROUP * room * sizeof(float) + 63) / 64) * 64);
        if (!scores) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 4)
        for (int64_t i = 0; i < s->B * s->K; i++) {
            if (!scores) continue;
            int64_t b = i / s->K, k = i % s->K;
            int64_t before = prompt_lengths ? prompt_lengths[b] : 0, own = lengths[b] + 1;
            int64_t hidden = s->window && before + own > s->window ? before + own - s->window : 0;
            int64_t from = hidden < before ? hidden : before, own_from = hidden - from;
            before -= from, own -= own_from;
            floats q[GROUP][KEY_SIZE / LANES], out[GROUP][VALUE_SIZE / LANES];
            for (int g = 0; g < GROUP; g++) {
                const element *x = query + ((b * s->K + k) * GROUP + g) * KEY_SIZE;
                for (int c = 0; c < KEY_SIZE / LANES; c++) q[g][c] = read_lanes(x + c * LANES);
                for (int c = 0; c < VALUE_SIZE / LANES; c++) out[g][c] = (floats){0};
            }
            const element *own_keys = keys + ((b * s->K + k) * s->row_tokens + own_from) * KEY_SIZE;
            const element *own_values = values + ((b * s->K + k) * s->row_tokens + own_from) * VALUE_SIZE;
            int64_t prompt = prompt_lengths ? (slots[b] * s->K + k) * s->prompt_tokens + from : 0;
            if (before) score(q, prompt_keys + prompt * KEY_SIZE, before, room, scores);
            score(q, own_keys, own, room, scores + before);
            float sums[GROUP];
            for (int g = 0; g < GROUP; g++)
                sums[g] = weigh_scores(scores + g * room, before + own, s->scale);
            if (before) weigh(scores, prompt_values + prompt * VALUE_SIZE, before, room, out);
            weigh(scores + before, own_values, own, room, out);
            for (int g = 0; g < GROUP; g++) {
                element *to = output + ((b * s->K + k) * GROUP + g) * VALUE_SIZE;
                for (int c = 0; c < VALUE_SIZE / LANES; c++) write_lanes(to + c * LANES, out[g][c] / sums[g]);
            }
        }
        free(scores);
    }
    return failed;
}
