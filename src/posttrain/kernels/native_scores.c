/* A chunk's logits [C, V] to log-probs of targets, and in place to the gradient: two passes over memory to read, one
   to write. Each row's arithmetic has one order, whatever the number of threads. */

#include "native_lanes.h"

#include <math.h>

#define PART 2048 /* tokens that are summed together, so that rounding stays small; a multiple of LANES */

static float find_largest(const element *x, int64_t V, float scale) {
    int64_t whole = V / LANES * LANES;
    floats most = (floats){0} - __builtin_inff();
    for (int64_t v = 0; v < whole; v += LANES) {
        floats y = read_lanes(x + v) * scale;
        most = choose(y > most, y, most);
    }
    float largest = -__builtin_inff();
    for (int i = 0; i < LANES; i++) largest = most[i] > largest ? most[i] : largest;
    for (int64_t v = whole; v < V; v++) {
        float y = read(x[v]) * scale;
        largest = y > largest ? y : largest;
    }
    return largest;
}

/* Log-probs of the targets, whether each has the largest logit, entropies (null: not wanted), and log-sum-exps, [C]
   each; `scale` times the logits are meant. */
void read_scores(const element *logits, const int64_t *targets, float *logprobs, float *is_argmax, float *entropies,
                 float *logsumexps, int64_t C, int64_t V, float scale) {
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < C; c++) {
        const element *x = logits + c * V;
        float largest = find_largest(x, V, scale), total = 0, moment = 0;
        for (int64_t begin = 0; begin < V; begin += PART) {
            int64_t end = begin + PART < V ? begin + PART : V, whole = begin + (end - begin) / LANES * LANES;
            floats sums = {0}, moments = {0};
            for (int64_t v = begin; v < whole; v += LANES) {
                floats y = read_lanes(x + v) * scale - largest, power = exponential(y);
                sums += power;
                /* a logit of -inf has no share, where 0 times -inf would be none */
                moments += choose(power > 0.0f, power * y, power);
            }
            float sum = sum_all(sums), part = sum_all(moments);
            for (int64_t v = whole; v < end; v++) {
                floats y = {read(x[v]) * scale - largest};
                float power = exponential(y)[0];
                sum += power;
                part += power > 0 ? power * y[0] : 0;
            }
            total += sum;
            moment += part;
        }
        float chosen = read(x[targets[c]]) * scale, logged = logf(total);
        logprobs[c] = chosen - largest - logged;
        is_argmax[c] = chosen >= largest;
        logsumexps[c] = largest + logged;
        if (entropies) entropies[c] = logged - moment / total;
    }
}

/* logits[c, v] = slope[c] * scale * (1[v = target[c]] - p[c, v]). */
void write_gradient(element *logits, const int64_t *targets, const float *slopes, const float *logsumexps, int64_t C,
                    int64_t V, float scale) {
    int64_t whole = V / LANES * LANES;
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < C; c++) {
        element *x = logits + c * V;
        float factor = slopes[c] * scale, sum = logsumexps[c];
        floats target = {read(x[targets[c]]) * scale - sum};
        float at_target = factor * (1.0f - exponential(target)[0]);
        for (int64_t v = 0; v < whole; v += LANES)
            write_lanes(x + v, exponential(read_lanes(x + v) * scale - sum) * -factor);
        for (int64_t v = whole; v < V; v++) {
            floats y = {read(x[v]) * scale - sum};
            x[v] = write(exponential(y)[0] * -factor);
        }
        x[targets[c]] = write(at_target);
    }
}
