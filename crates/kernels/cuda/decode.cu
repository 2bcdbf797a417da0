// Attention of few rows over the paged cache: keys are split among blocks (flash decoding).
//
// A block takes one row, one key/value head with its query heads, and one span of keys at fixed absolute positions;
// the length of spans follows from the row's own length alone, so that a row has the same bits whatever stands beside it.
// The block of a row and head that ends last joins the spans in their order.

#include "common.cuh"

namespace {

constexpr int PAGE = 32;      // tokens of a block of the cache
constexpr int THREADS = 128;
constexpr int LONGEST = 512;  // keys of a long span

/// Keys of a span, for a row that sees keys up to `end`.
__device__ __forceinline__ int span_of(int end) { return end <= 8192 ? 64 : LONGEST; }

__device__ __forceinline__ void unpack8(float f[8], uint4 v) {
    float2 a = unpack_bf16(v.x), b = unpack_bf16(v.y), c = unpack_bf16(v.z), d = unpack_bf16(v.w);
    f[0] = a.x, f[1] = a.y, f[2] = b.x, f[3] = b.y, f[4] = c.x, f[5] = c.y, f[6] = d.x, f[7] = d.y;
}

/// Eight elements of a cache of bf16 (16 bytes) or 8-bit floats (8 bytes).
__device__ __forceinline__ uint4 load8(const bf16* at) { return load_cg16(at); }
__device__ __forceinline__ uint2 load8(const uint8_t* at) { return load_cg8(at); }
__device__ __forceinline__ void unpack8(float f[8], uint2 v) {
    const uint2 low = widen_f8(v.x), high = widen_f8(v.y);
    float2 a = unpack_bf16(low.x), b = unpack_bf16(low.y), c = unpack_bf16(high.x), d = unpack_bf16(high.y);
    f[0] = a.x, f[1] = b.x, f[2] = a.y, f[3] = b.y, f[4] = c.x, f[5] = d.x, f[6] = c.y, f[7] = d.y;
}

template <int DIM, int G, class E>
__device__ __forceinline__ void decode(const bf16* q, const E* keys, const E* values, const int* positions,
                                       const int* ends, const int* sequence_of, const int* tables, int table_stride,
                                       int window, float scale, float* partial, float2* weight_of, int* arrived, bf16* out) {
    constexpr int LANES = DIM / 8;       // lanes that share a key
    constexpr int AT_ONCE = 32 / LANES;  // keys that a warp loads at once
    const int spans = gridDim.x, kv_heads = gridDim.y, head = blockIdx.y, row = blockIdx.z;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = lane % LANES, which = lane / LANES;
    __shared__ float scores[G][LONGEST];
    __shared__ float joined[THREADS / 32][G][DIM];
    __shared__ int last;
    wait_for_former();
    launch_next();
    const int end = ends[row], lo = window > 0 ? max(0, positions[row] + 1 - window) : 0;
    const int span = span_of(end), first_span = lo / span, last_span = (end - 1) / span;
    // Spans are counted from the window's first, so that a local layer's grid is as short as its window.
    const int number = first_span + blockIdx.x;
    if (number > last_span) return;
    const int begin = max(lo, number * span), stop = min(end, (number + 1) * span), count = stop - begin;
    const int* table = tables + size_t(sequence_of[row]) * table_stride;
    const size_t page_size = size_t(kv_heads) * PAGE * DIM;
    auto offset = [&](int key) {
        return size_t(table[key / PAGE]) * page_size + (size_t(head) * PAGE + key % PAGE) * DIM + part * 8;
    };
    float query[G][8];
#pragma unroll
    for (int h = 0; h < G; h++) unpack8(query[h], load_cg16(q + (size_t(row) * kv_heads * G + head * G + h) * DIM + part * 8));
    constexpr int STEP = THREADS / 32 * AT_ONCE;
    constexpr int UNROLL = 4;
    for (int base = warp * AT_ONCE + which; base < count + which; base += STEP * UNROLL) {
        decltype(load8(keys)) k[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            int key = min(base + u * STEP, count - 1);
            k[u] = load8(keys + offset(begin + key));
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            float f[8];
            unpack8(f, k[u]);
#pragma unroll
            for (int h = 0; h < G; h++) {
                float sum = 0;
#pragma unroll
                for (int e = 0; e < 8; e++) sum += f[e] * query[h][e];
#pragma unroll
                for (int d = LANES / 2; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
                if (part == 0 && base + u * STEP < count) scores[h][base + u * STEP] = sum * scale;
            }
        }
    }
    __syncthreads();
    float most[G], total[G];
#pragma unroll
    for (int h = 0; h < G; h++) {
        float m = -INFINITY;
        for (int i = lane; i < count; i += 32) m = fmaxf(m, scores[h][i]);
#pragma unroll
        for (int d = 16; d > 0; d /= 2) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, d));
        most[h] = m;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count * G; i += THREADS) {
        int h = i / count, at = i % count;
        float m = most[0];
#pragma unroll
        for (int j = 1; j < G; j++) m = h == j ? most[j] : m;
        scores[h][at] = exp2f((scores[h][at] - m) * 1.4426950408889634f);
    }
    __syncthreads();
#pragma unroll
    for (int h = 0; h < G; h++) {
        float s = 0;
        for (int i = lane; i < count; i += 32) s += scores[h][i];
#pragma unroll
        for (int d = 16; d > 0; d /= 2) s += __shfl_xor_sync(0xffffffffu, s, d);
        total[h] = s;
    }
    float acc[G][8] = {};
    for (int base = warp * AT_ONCE + which; base < count; base += STEP * UNROLL) {
        decltype(load8(values)) v[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) v[u] = load8(values + offset(begin + min(base + u * STEP, count - 1)));
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (base + u * STEP < count) {
                float f[8];
                unpack8(f, v[u]);
#pragma unroll
                for (int h = 0; h < G; h++) {
                    float p = scores[h][base + u * STEP];
#pragma unroll
                    for (int e = 0; e < 8; e++) acc[h][e] += p * f[e];
                }
            }
        }
    }
#pragma unroll
    for (int h = 0; h < G; h++) {
#pragma unroll
        for (int e = 0; e < 8; e++) {
            float sum = acc[h][e];
#pragma unroll
            for (int d = LANES; d < 32; d *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
            if (which == 0) joined[warp][h][part * 8 + e] = sum;
        }
    }
    __syncthreads();
    const bool alone = first_span == last_span;
    const size_t slot = (size_t(row) * kv_heads + head) * spans;
    for (int i = threadIdx.x; i < G * DIM; i += THREADS) {
        int h = i / DIM, d = i % DIM;
        float sum = joined[0][h][d];
#pragma unroll
        for (int w = 1; w < THREADS / 32; w++) sum += joined[w][h][d];
        if (alone) {
            float s = total[0];
#pragma unroll
            for (int j = 1; j < G; j++) s = h == j ? total[j] : s;
            out[(size_t(row) * kv_heads * G + head * G + h) * DIM + d] = __float2bfloat16(sum / s);
        } else {
            partial[((slot + blockIdx.x) * G + h) * DIM + d] = sum;
        }
    }
    if (alone) return;
    if (threadIdx.x == 0) {
#pragma unroll
        for (int h = 0; h < G; h++) weight_of[(slot + blockIdx.x) * G + h] = make_float2(most[h], total[h]);
    }
    __threadfence();
    __syncthreads();
    const int used = last_span - first_span + 1;
    if (threadIdx.x == 0) last = atomicAdd(&arrived[row * kv_heads + head], 1) == used - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) arrived[row * kv_heads + head] = 0;
    for (int h = 0; h < G; h++) {
        float m = -INFINITY;
        for (int s = 0; s < used; s++) m = fmaxf(m, __ldcg(&weight_of[(slot + s) * G + h]).x);
        for (int d = threadIdx.x; d < DIM; d += THREADS) {
            float sum = 0, all = 0;
#pragma unroll 4
            for (int s = 0; s < used; s++) {
                float2 w = __ldcg(&weight_of[(slot + s) * G + h]);
                float factor = exp2f((w.x - m) * 1.4426950408889634f);
                sum += factor * __ldcg(&partial[((slot + s) * G + h) * DIM + d]);
                all += factor * w.y;
            }
            out[(size_t(row) * kv_heads * G + head * G + h) * DIM + d] = __float2bfloat16(sum / all);
        }
    }
}

}  // namespace

// q, out: bf16 [rows][kv_heads * G * DIM]; keys, values: one layer's, bf16 (or 8-bit floats) [block][kv_head][32][DIM];
// partial f32 [rows][kv_heads][spans][G][DIM]; weight_of [rows][kv_heads][spans][G]; arrived i32 [rows][kv_heads], zero.
// Launch: grid (spans, kv_heads, rows), block 128. spans >= the spans of each row (see span_of): for a global layer
// ceil(longest / 64) up to 8192 keys, and max(128, ceil(longest / 512)) beyond; for a local one the same of min(longest, window + 63 (511)), and one more.
#define DECODE(NAME, DIM, G, E)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128) NAME##_##DIM##_##G(                                                  \
        const bf16* q, const E* keys, const E* values, const int* positions, const int* ends,                             \
        const int* sequence_of, const int* tables, int table_stride, int window, float scale, float* partial,             \
        float2* weight_of, int* arrived, bf16* out) {                                                                     \
        decode<DIM, G, E>(q, keys, values, positions, ends, sequence_of, tables, table_stride, window, scale, partial,    \
                          weight_of, arrived, out);                                                                       \
    }
DECODE(decode, 256, 1, bf16)
DECODE(decode, 256, 2, bf16)
DECODE(decode, 256, 4, bf16)
DECODE(decode, 128, 1, bf16)
DECODE(decode, 128, 2, bf16)
DECODE(decode, 128, 4, bf16)
DECODE(decode, 64, 1, bf16)
DECODE(decode, 64, 2, bf16)
DECODE(decode, 64, 4, bf16)
// The published shapes.
DECODE(decode_f8, 256, 2, uint8_t)
DECODE(decode_f8, 256, 4, uint8_t)
DECODE(decode_f8, 128, 2, uint8_t)
