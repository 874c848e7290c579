/* RMSNorm and the gated SiLU unit over rows [N, H], forward and backward, each in one pass over memory.

   Results round where kernels/layers.py rounds. Sums over rows are taken in parts of fixed size and added in their
   order, so that they do not depend on the number of threads. */

#include "native_lanes.h"

#include <stdlib.h>

#define PART 64 /* rows that are summed together */

/* output = hidden * scale * gain, scale = 1 / sqrt(mean(hidden^2) + epsilon) [N]. With `is_unit_offset` the gain is
   1 + gain, and rounding is once, at the end. */
void normalise(const element *hidden, const element *gain, element *output, float *scales, int64_t N, int64_t H,
               float epsilon, int is_unit_offset) {
    int64_t whole = H / LANES * LANES;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const element *x = hidden + n * H;
        element *y = output + n * H;
        floats sums = {0};
        float total = 0;
        for (int64_t h = 0; h < whole; h += LANES) sums += read_lanes(x + h) * read_lanes(x + h);
        for (int64_t h = whole; h < H; h++) total += read(x[h]) * read(x[h]);
        float scale = scales[n] = 1.0f / __builtin_sqrtf((sum_all(sums) + total) / (float)H + epsilon);
        if (is_unit_offset) {
            for (int64_t h = 0; h < whole; h += LANES)
                write_lanes(y + h, read_lanes(x + h) * scale * (1.0f + read_lanes(gain + h)));
            for (int64_t h = whole; h < H; h++) y[h] = write(read(x[h]) * scale * (1.0f + read(gain[h])));
        } else {
            for (int64_t h = 0; h < whole; h += LANES)
                write_lanes(y + h, round_lanes(read_lanes(x + h) * scale) * read_lanes(gain + h));
            for (int64_t h = whole; h < H; h++) y[h] = write(round_once(read(x[h]) * scale) * read(gain[h]));
        }
    }
}

/* The gradients of `normalise`: of hidden [N, H] (null: not wanted) and of the gain, fp32 [H] (null: not wanted).
   Returns 0, or 1 where memory ran out. */
int normalise_backward(const element *hidden, const element *gain, const float *scales, const element *grad,
                       element *grad_hidden, float *grad_gain, int64_t N, int64_t H, int is_unit_offset) {
    int64_t whole = H / LANES * LANES, parts = (N + PART - 1) / PART;
    float offset = is_unit_offset ? 1.0f : 0.0f, *sums = grad_gain ? calloc(parts * H, sizeof(float)) : 0;
    if (grad_gain && !sums) return 1;
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < parts; part++) {
        int64_t end = (part + 1) * PART < N ? (part + 1) * PART : N;
        for (int64_t n = part * PART; n < end; n++) {
            const element *x = hidden + n * H, *g = grad + n * H;
            float scale = scales[n], *own = sums ? sums + part * H : 0, rest = 0;
            floats shared = {0};
            for (int64_t h = 0; h < whole; h += LANES) {
                floats product = read_lanes(x + h) * scale * read_lanes(g + h);
                if (own) *(floats *)(own + h) += product;
                shared += product * (read_lanes(gain + h) + offset);
            }
            for (int64_t h = whole; h < H; h++) {
                float product = read(x[h]) * scale * read(g[h]);
                if (own) own[h] += product;
                rest += product * (read(gain[h]) + offset);
            }
            if (!grad_hidden) continue;
            element *out = grad_hidden + n * H;
            float mean = (sum_all(shared) + rest) / (float)H;
            for (int64_t h = 0; h < whole; h += LANES)
                write_lanes(out + h, (read_lanes(g + h) * (read_lanes(gain + h) + offset) -
                                      read_lanes(x + h) * scale * mean) * scale);
            for (int64_t h = whole; h < H; h++)
                out[h] = write((read(g[h]) * (read(gain[h]) + offset) - read(x[h]) * scale * mean) * scale);
        }
    }
    if (sums) {
#pragma omp parallel for schedule(static)
        for (int64_t h = 0; h < H; h++) {
            float total = 0;
            for (int64_t part = 0; part < parts; part++) total += sums[part * H + h];
            grad_gain[h] = total;
        }
        free(sums);
    }
    return 0;
}

static inline floats sigmoid(floats x) { return 1.0f / (1.0f + exponential(-x)); }

/* output = silu(gate) * up; rows of `gate` and `up` are `stride` elements apart, the output's H. */
void gate_silu(const element *gate, const element *up, element *output, int64_t N, int64_t H, int64_t stride) {
    int64_t whole = H / LANES * LANES;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const element *g = gate + n * stride, *u = up + n * stride;
        element *out = output + n * H;
        for (int64_t h = 0; h < whole; h += LANES) {
            floats x = read_lanes(g + h);
            write_lanes(out + h, round_lanes(x * sigmoid(x)) * read_lanes(u + h));
        }
        for (int64_t h = whole; h < H; h++) {
            float x = read(g[h]);
            out[h] = write(round_once(x * sigmoid((floats){x})[0]) * read(u[h]));
        }
    }
}

static inline floats slope(floats x) {
    floats s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}

/* The gradients of `gate_silu`, [N, H] each. */
void gate_silu_backward(const element *gate, const element *up, const element *grad, element *grad_gate,
                        element *grad_up, int64_t N, int64_t H, int64_t stride) {
    int64_t whole = H / LANES * LANES;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const element *g = gate + n * stride, *u = up + n * stride, *d = grad + n * H;
        element *out_gate = grad_gate + n * H, *out_up = grad_up + n * H;
        for (int64_t h = 0; h < whole; h += LANES) {
            floats x = read_lanes(g + h), outer = read_lanes(d + h);
            write_lanes(out_up + h, round_lanes(x * sigmoid(x)) * outer);
            write_lanes(out_gate + h, round_lanes(outer * read_lanes(u + h)) * slope(x));
        }
        for (int64_t h = whole; h < H; h++) {
            float x = read(g[h]), outer = read(d[h]);
            floats lanes = {x};
            out_up[h] = write(round_once(x * sigmoid(lanes)[0]) * outer);
            out_gate[h] = write(round_once(outer * read(u[h])) * slope(lanes)[0]);
        }
    }
}
