/* Elements of a tensor, fp32 or with BF16 defined bf16, one by one and LANES at a time; arithmetic is in fp32. */

#ifndef NATIVE_LANES_H
#define NATIVE_LANES_H

#include <stdint.h>
#include <string.h>

#define LANES 16

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

#ifdef BF16
typedef uint16_t element;

static inline float read(element x) {
    union { uint32_t bits; float value; } u = {(uint32_t)x << 16};
    return u.value;
}

static inline element write(float x) { /* to nearest, ties to even; a NaN stays one */
    union { float value; uint32_t bits; } u = {x};
    uint32_t rounded = (u.bits + 0x7fff + ((u.bits >> 16) & 1)) >> 16;
    return (u.bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;
}

static inline floats read_lanes(const element *x) {
    words bits = __builtin_convertvector(*(const halves *)x, words) << 16;
    return (floats)bits;
}

static inline void write_lanes(element *to, floats x) {
    words bits = (words)x, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    words is_nan = (words)((bits & 0x7fffffff) > 0x7f800000);
    *(halves *)to = __builtin_convertvector((rounded & ~is_nan) | (0x7fc0 & is_nan), halves);
}
#else
typedef float element;
static inline float read(element x) { return x; }
static inline element write(float x) { return x; }
static inline floats read_lanes(const element *x) { return *(const floats *)x; }
static inline void write_lanes(element *to, floats x) { *(floats *)to = x; }
#endif

static inline float round_once(float x) { return read(write(x)); }

static inline floats choose(ints condition, floats yes, floats no) {
    return (floats)(((ints)yes & condition) | ((ints)no & ~condition));
}

/* e^x, within 2 units in the last place (Cephes' polynomial); 0 below -87, e^88 above 88; a NaN stays one. */
static inline floats exponential(floats x) {
    const floats zero = {0};
    ints is_tiny = x < -87.0f;
    floats clipped = choose(is_tiny, zero - 87.0f, choose(x > 88.0f, zero + 88.0f, x));
    floats shifted = clipped * 1.44269504088896341f + 12582912.0f; /* the nearest integer, in the low bits */
    floats n = shifted - 12582912.0f;
    floats r = clipped - n * 0.693359375f + n * 2.12194440e-4f;
    floats p = zero + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return choose(is_tiny, zero, p * (floats)(((ints)shifted + 127) << 23));
}

static inline float sum_all(floats x) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

static inline floats round_lanes(floats x) {
    element rounded[LANES];
    write_lanes(rounded, x);
    return read_lanes(rounded);
}

#endif
