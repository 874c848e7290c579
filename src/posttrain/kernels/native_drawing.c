/* Drawing a token for each sequence from logits [V, B], as kernels/drawing.py does where nothing is cut, penalised
   or masked: by the inverse of the distribution function in the order of ids, in two levels. Sequences lie in the
   lanes of vectors; each one's arithmetic has one order, whatever its neighbours are. */

#include "native_lanes.h"

#include <math.h>
#include <stdlib.h>

#define BLOCK 128 /* tokens whose weights are summed */

typedef struct {
    int64_t V, B;         /* vocabulary; sequences of a row of logits */
    int64_t count;        /* sequences to draw for, the first ones */
    int32_t is_greedy;
    float inverse;        /* of the temperature */
    float least_weight;   /* tokens that weigh less are never drawn */
    double least_target;
} Settings;

static inline floats read_some(const element *from, int64_t count) {
    if (count == LANES) return read_lanes(from);
    element lanes[LANES] = {0};
    for (int64_t b = 0; b < count; b++) lanes[b] = from[b];
    return read_lanes(lanes);
}

/* One sequence's token: the first at which the cumulated weight exceeds the target. `sums` are its blocks', `wide`
   floats apart. */
static int64_t invert(const Settings *s, const element *logits, float largest, const float *sums, int64_t wide,
                      double uniform, double *total) {
    int64_t blocks = (s->V + BLOCK - 1) / BLOCK;
    *total = 0;
    for (int64_t n = 0; n < blocks; n++) *total += sums[n * wide];
    double target = uniform * *total, before = 0;
    if (target < s->least_target) target = s->least_target;
    int64_t block = 0;
    while (block < blocks - 1 && !(before + sums[block * wide] > target)) before += sums[block++ * wide];
    int64_t begin = block * BLOCK, end = begin + BLOCK < s->V ? begin + BLOCK : s->V;
    float weights[BLOCK];
    double held = 0, rest = target - before;
    for (int64_t i = 0; i < BLOCK; i++)
        weights[i] = begin + i < end ? (read(logits[(begin + i) * s->B]) - largest) * s->inverse : -__builtin_inff();
    for (int64_t i = 0; i < BLOCK; i += LANES) *(floats *)(weights + i) = exponential(*(floats *)(weights + i));
    for (int64_t i = 0; i < BLOCK; i++) {
        if (weights[i] < s->least_weight) weights[i] = 0;
        held += weights[i];
    }
    /* Rounding may neither run past the block's end nor reach what has no weight. */
    double most = held * (1 - 0x1p-53);
    rest = rest < 0 ? 0 : rest > most ? most : rest;
    double cumulated = 0;
    for (int64_t v = begin; v < end; v++) {
        cumulated += weights[v - begin];
        if (cumulated > rest) return v;
    }
    return end - 1; /* no weight at all: logits are no distribution, and log-probs say so */
}

/* ids, and log-probs under the full distribution and under the one drawn from (0 where greedy), [count] each.
   Returns 0, or 1 where memory ran out. */
int draw(const Settings *s, const element *logits, const double *uniforms, int64_t *ids, float *logprobs,
         float *drawing_logprobs) {
    int64_t blocks = (s->V + BLOCK - 1) / BLOCK, wide = (s->count + LANES - 1) / LANES * LANES;
    int is_scaled = !s->is_greedy && s->inverse != 1.0f;
    const floats zero = {0};
    /* Of each block of tokens and sequence: the largest logit, the sum of weights, and that at the temperature. */
    float *maxima = malloc((3 * blocks + 1) * wide * sizeof(float));
    if (!maxima) return 1;
    float *sums = maxima + blocks * wide, *scaled = is_scaled ? sums + blocks * wide : sums;
    float *most = maxima + 3 * blocks * wide;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < blocks; n++) {
            int64_t end = (n + 1) * BLOCK < s->V ? (n + 1) * BLOCK : s->V;
            for (int64_t b = 0; b < wide; b += LANES) *(floats *)(maxima + n * wide + b) = zero - __builtin_inff();
            for (int64_t v = n * BLOCK; v < end; v++)
                for (int64_t b = 0; b < wide; b += LANES) {
                    floats x = read_some(logits + v * s->B + b, s->B - b < LANES ? s->B - b : LANES);
                    floats *largest = (floats *)(maxima + n * wide + b);
                    *largest = choose(x > *largest, x, *largest);
                }
        }
#pragma omp for schedule(static)
        for (int64_t b = 0; b < wide; b += LANES) {
            floats largest = zero - __builtin_inff();
            for (int64_t n = 0; n < blocks; n++) {
                floats x = *(floats *)(maxima + n * wide + b);
                largest = choose(x > largest, x, largest);
            }
            *(floats *)(most + b) = largest;
        }
#pragma omp for schedule(static)
        for (int64_t n = 0; n < blocks; n++) {
            int64_t end = (n + 1) * BLOCK < s->V ? (n + 1) * BLOCK : s->V;
            for (int64_t b = 0; b < wide; b += LANES) {
                floats sum = zero, sum_scaled = zero, largest = *(floats *)(most + b);
                for (int64_t v = n * BLOCK; v < end; v++) {
                    floats x = read_some(logits + v * s->B + b, s->B - b < LANES ? s->B - b : LANES) - largest;
                    sum += exponential(x);
                    if (is_scaled) sum_scaled += exponential(x * s->inverse);
                }
                *(floats *)(sums + n * wide + b) = sum;
                if (is_scaled) *(floats *)(scaled + n * wide + b) = sum_scaled;
            }
        }
#pragma omp for schedule(static)
        for (int64_t b = 0; b < s->count; b++) {
            const element *column = logits + b;
            double total = 0, scaled_total = 0;
            int64_t id = 0;
            for (int64_t n = 0; n < blocks; n++) total += sums[n * wide + b];
            if (s->is_greedy)
                while (id < s->V - 1 && read(column[id * s->B]) != most[b]) id++;
            else
                id = invert(s, column, most[b], scaled + b, wide, uniforms[b], &scaled_total);
            double score = (double)read(column[id * s->B]) - most[b];
            ids[b] = id;
            logprobs[b] = (float)(score - log(total));
            if (s->is_greedy)
                drawing_logprobs[b] = most[b] - most[b]; /* 0, or NaN where there is nothing to draw from */
            else if (is_scaled)
                drawing_logprobs[b] = (float)((float)score * s->inverse - log(scaled_total));
            else
                drawing_logprobs[b] = logprobs[b];
        }
    }
    free(maxima);
    return 0;
}
