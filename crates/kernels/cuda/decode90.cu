// A step of decoding in one kernel: norms and rotates q and k, writes k and v to the cache, and attends (Hopper).
//
// Each row is the last of its sequence, so all keys but its own were there before the step: a block copies its keys and
// values into shared memory before it waits for the product that makes q. The keys of a row and key/value head lie in spans
// of 64 keys, or of several such tiles where there are more than 64 tiles; blocks take spans in their order. Where each
// block of a cluster has one span, they are joined through the cluster's shared memory; else through global memory, by
// the block that ends last. Both join the same spans in the same order, and which spans there are follows from the row's
// own length alone, so that a row has the same bits whatever stands beside it.

#include "common.cuh"

namespace {

constexpr int PAGE = 32;      // tokens of a block of the cache
constexpr int TILE = 64;      // keys
constexpr int MOST_SPANS = 64;
constexpr int MOST_BLOCKS = 16;  // of a cluster
constexpr float LOG2E = 1.4426950408889634f;

__device__ __forceinline__ void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void matrices(uint32_t r[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}
__device__ __forceinline__ void matrices_transposed(uint32_t r[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}
/// 16 bytes, or zeros.
__device__ __forceinline__ void copy16(uint32_t to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0));
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;"); }
__device__ __forceinline__ float load_cg(const float* p) { return __ldcg(p); }
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
    return v;
}
/// A float of another block of the cluster.
__device__ __forceinline__ float of_block(const float* at, int rank) {
    uint32_t there;
    float v;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(uint32_t(__cvta_generic_to_shared(at))), "r"(rank));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(there) : "memory");
    return v;
}
__device__ __forceinline__ float4 four_of_block(const float* at, int rank) {
    uint32_t there;
    float4 v;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(uint32_t(__cvta_generic_to_shared(at))), "r"(rank));
    asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(there) : "memory");
    return v;
}
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

/// A step as the host staged it, and one layer of the cache.
struct Step {
    const int* positions;
    const int* ends;
    const int* sequence_of;
    const int* tables;
    int stride;
};
struct Heads {
    const float* q_norm;
    const float* k_norm;
    float eps;
    const float* rope;  // [rows][DIM]: cosines, then sines
};

__device__ __forceinline__ int cluster_size() {
    int size;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
}

/// Four elements of a head, joined from spans.
struct Joined {
    float4 sum = make_float4(0, 0, 0, 0);
    float all = 0;
    __device__ __forceinline__ void add(float factor, float total, float4 v) {
        sum.x = fmaf(factor, v.x, sum.x), sum.y = fmaf(factor, v.y, sum.y);
        sum.z = fmaf(factor, v.z, sum.z), sum.w = fmaf(factor, v.w, sum.w);
        all = fmaf(factor, total, all);
    }
    __device__ __forceinline__ void write(bf16* to) const {
        *reinterpret_cast<uint2*>(to) = make_uint2(pack_bf16(sum.x / all, sum.y / all), pack_bf16(sum.z / all, sum.w / all));
    }
};

__device__ __forceinline__ void put(bf16* to, float v) { *to = __float2bfloat16(v); }
__device__ __forceinline__ void put(uint8_t* to, float v) { *to = float_to_f8(v); }

/// What a block holds in shared memory; keys and values as the cache holds them, bf16 or 8-bit floats.
template <int DIM, int G, class E>
struct Held {
    static constexpr bool NARROW = sizeof(E) == 1;
    static constexpr int WIDTH = DIM + 16 / sizeof(E);  // elements of a row of keys or values: no bank conflicts
    static constexpr int HALVES = DIM / 128;  // of a head, whose scores are summed apart
    static constexpr int STRIDE = DIM + 8;  // of queries, likewise
    static constexpr int WIDE = TILE + 8;
    E keys[TILE][WIDTH];
    E values[TILE][WIDTH];
    bf16 query[G][STRIDE];  // beside 8-bit floats the second and third of four are exchanged, as widening gives keys
    bf16 weight[8][WIDE];  // softmax weights of each query head, then what rounding to bf16 left of them
    float scores[HALVES][G][TILE];
    float sum[G][DIM];
    float top[G], total[G];
    int last;
};

template <int DIM, int G, int WARPS, class E>
__device__ __forceinline__ void decode(const float* qkv, Heads heads, Step step, E* keys, E* values, int window,
                                       float scale, float* partial, float2* weight_of, int* arrived, bf16* out) {
    using H = Held<DIM, G, E>;
    constexpr int THREADS = WARPS * 32, HALVES = H::HALVES;
    constexpr int PIECES = DIM * sizeof(E) / 16, PAIRS = (DIM / 2 + 31) / 32, SLICE = DIM / WARPS, PARTS = SLICE / 16;
    extern __shared__ __align__(128) char shared[];
    H& held = *reinterpret_cast<H*>(shared);
    const int kv_heads = gridDim.y, head = blockIdx.y, row = blockIdx.z, number = blockIdx.x;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int position = __ldcg(step.positions + row), end = __ldcg(step.ends + row);
    const int* table = step.tables + size_t(__ldcg(step.sequence_of + row)) * step.stride;
    const int low = window > 0 ? max(0, position + 1 - window) : 0, count = end - low;
    const int tiles = (count + TILE - 1) / TILE, length = (tiles + MOST_SPANS - 1) / MOST_SPANS;  // of a span, in tiles
    const int spans = (tiles + length - 1) / length, each = (spans + int(gridDim.x) - 1) / int(gridDim.x);
    const int active = (spans + each - 1) / each;
    if (number >= active) return;
    const bool clustered = each == 1 && cluster_size() == int(gridDim.x);
    const int first = number * each * length, behind = min(first + each * length, tiles);
    auto place = [&](int page, int key) { return ((size_t(page) * kv_heads + head) * PAGE + key % PAGE) * DIM; };
    // The blocks of the cache where a tile's keys lie: a lane has those of the keys `lane` and `lane + 32`.
    auto pages_of = [&](int tile) {
        const int key = low + tile * TILE + lane;
        return make_int2(__ldcg(table + min(key, end - 1) / PAGE), __ldcg(table + min(key + 32, end - 1) / PAGE));
    };
    // A tile of keys or values, zeros behind them; the row's own are not in the cache yet.
    constexpr int ROWS = 32 / PIECES, STEPS = TILE / (WARPS * ROWS);
    auto copy = [&](E (*to)[H::WIDTH], const E* from, int tile, int2 pages) {
        const int seen = end - low - tile * TILE, hole = position - low - tile * TILE, piece = lane % PIECES;
        // In sixteens of bytes; the two keys of a lane have the same place in their blocks.
        const uint32_t within = (low + tile * TILE + lane) % PAGE;
        auto place_of = [&](int page) { return (uint32_t(page * kv_heads + head) * PAGE + within) * PIECES; };
        const uint32_t first_place = place_of(pages.x), second_place = place_of(pages.y);
        const uint32_t at = uint32_t(__cvta_generic_to_shared(&to[warp * ROWS + lane / PIECES][piece * (16 / sizeof(E))]));
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            const int key = (i * WARPS + warp) * ROWS + lane / PIECES;
            const uint32_t place = __shfl_sync(~0u, i < STEPS / 2 ? first_place : second_place, key % 32) + piece;
            if (key != hole) copy16(at + i * WARPS * ROWS * H::WIDTH * sizeof(E), reinterpret_cast<const uint4*>(from) + (key < seen ? place : 0), key < seen);
        }
        commit();
    };
    int2 pages = pages_of(first);
    copy(held.keys, keys, first, pages);
    copy(held.values, values, first, pages);
    // Of the tile that is copied next: known before there is room for it.
    pages = pages_of(first + 1);
    const int own = position - low;
    const bool has_own = own >= first * TILE && own < behind * TILE;
    const size_t own_place = has_own ? place(__ldcg(table + position / PAGE), position) : 0;
    for (int i = threadIdx.x; i < 8 * H::WIDE / 2; i += THREADS) reinterpret_cast<uint32_t*>(held.weight)[i] = 0;
    // The next kernel asks for its weights once the first keys are here.
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    launch_next();
    wait_for_former();

    // A warp takes a query head, or the row's key or value where they lie in this block's tiles (its last tile).
    float2 own_k[PAIRS], own_v[PAIRS];
    auto turned = [&](const float* from, const float* norm, float2 v[PAIRS]) {
        float2 weight[PAIRS], turn[PAIRS];
        float sum = 0;
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            const int i = lane + 32 * j;
            const bool there = i < DIM / 2;
            v[j] = there ? make_float2(load_cg(from + i), load_cg(from + i + DIM / 2)) : make_float2(0, 0);
            weight[j] = there ? make_float2(norm[i], norm[i + DIM / 2]) : make_float2(0, 0);
            const float* at = heads.rope + size_t(row) * DIM + i;
            turn[j] = there ? make_float2(load_cg(at), load_cg(at + DIM / 2)) : make_float2(0, 0);
            sum += v[j].x * v[j].x + v[j].y * v[j].y;
        }
        const float inverse = 1.0f / sqrtf(warp_sum(sum) / DIM + heads.eps);
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            const float a = v[j].x * inverse * weight[j].x, b = v[j].y * inverse * weight[j].y;
            v[j] = make_float2(a * turn[j].x - b * turn[j].y, b * turn[j].x + a * turn[j].y);
        }
    };
    auto keep = [&](auto* to, const float2 v[PAIRS]) {
        // Of four elements of a query the second and third are exchanged where keys are 8-bit floats.
        const bool exchange = H::NARROW && sizeof(*to) == 2;
        const int own = exchange ? lane & ~3 | lane % 2 * 2 | lane / 2 % 2 : lane;
#pragma unroll
        for (int j = 0; j < PAIRS; j++)
            if (lane + 32 * j < DIM / 2) put(to + own + 32 * j, v[j].x), put(to + own + 32 * j + DIM / 2, v[j].y);
    };
    const float* qkv_row = qkv + size_t(row) * (G + 2) * kv_heads * DIM;
    constexpr int KEY_WARP = G % WARPS, VALUE_WARP = (G + 1) % WARPS;
    for (int h = warp; h < G; h += WARPS) {
        float2 v[PAIRS];
        turned(qkv_row + (head * G + h) * DIM, heads.q_norm, v);
        keep(held.query[h], v);
    }
    if (has_own && warp == KEY_WARP) {
        turned(qkv_row + (G * kv_heads + head) * DIM, heads.k_norm, own_k);
        keep(keys + own_place, own_k);
    }
    if (has_own && warp == VALUE_WARP) {
        const float* from = qkv_row + ((G + 1) * kv_heads + head) * DIM;
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            const int i = lane + 32 * j;
            own_v[j] = i < DIM / 2 ? make_float2(load_cg(from + i), load_cg(from + i + DIM / 2)) : make_float2(0, 0);
        }
        keep(values + own_place, own_v);
    }

    float acc[PARTS][4], top[G], total[G];
    const size_t slot = (size_t(row) * kv_heads + head) * MOST_SPANS;
    for (int tile = first; tile < behind; tile++) {
        const int begin = tile * TILE, seen = min(TILE, count - begin);
        const bool begins = tile % length == 0;
        if (begins) {
#pragma unroll
            for (int h = 0; h < G; h++) top[h] = -INFINITY, total[h] = 0;
#pragma unroll
            for (int i = 0; i < PARTS; i++) acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = 0;
        }
        const bool here = own >= begin && own < begin + TILE;
        if (here && warp == KEY_WARP) keep(held.keys[own - begin], own_k);
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        __syncthreads();
        // Scores: a warp takes 16 keys and half a head, or both halves, in two sums each.
        constexpr int HALF = DIM / HALVES;
        const int keys16 = warp % 4 * 16;
#pragma unroll
        for (int nth = 0; nth < HALVES * 4 / WARPS; nth++) {
            const int half = warp / 4 + nth;
            float s[4] = {}, odd_s[4] = {};
            const uint32_t from = uint32_t(__cvta_generic_to_shared(&held.keys[keys16 + lane % 16][half * HALF + lane / 16 * (16 / sizeof(E))]));
            if (H::NARROW) {
                // Thirty-two elements at once: a lane has four of each row, the even ones for one product, the odd ones for the other.
#pragma unroll
                for (int d = 0; d < HALF; d += 32) {
                    uint32_t a[4], even[4], odd[4];
                    uint2 b0 = make_uint2(0, 0), b1 = make_uint2(0, 0);
                    matrices(a, from + d);
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const uint2 wide = widen_f8(a[i]);
                        even[i] = wide.x, odd[i] = wide.y;
                    }
                    if (g < G) {
                        b0 = *reinterpret_cast<const uint2*>(&held.query[g][half * HALF + d + 4 * t]);
                        b1 = *reinterpret_cast<const uint2*>(&held.query[g][half * HALF + d + 16 + 4 * t]);
                    }
                    mma(s, even, b0.x, b1.x);
                    mma(odd_s, odd, b0.y, b1.y);
                }
            }
#pragma unroll
            for (int d = 0; d < (H::NARROW ? 0 : HALF); d += 16) {
                uint32_t a[4], b0 = 0, b1 = 0;
                matrices(a, from + d * 2);
                if (g < G) {
                    b0 = *reinterpret_cast<const uint32_t*>(&held.query[g][half * HALF + d + 2 * t]);
                    b1 = *reinterpret_cast<const uint32_t*>(&held.query[g][half * HALF + d + 8 + 2 * t]);
                }
                mma(d % 32 == 0 ? s : odd_s, a, b0, b1);
            }
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int h = 2 * t + e % 2, key = keys16 + g + e / 2 * 8;
                if (h < G) held.scores[half][h][key] = key < seen ? (s[e] + odd_s[e]) * (scale * LOG2E) : -INFINITY;
            }
        }
        __syncthreads();
        if (tile + 1 < behind) copy(held.keys, keys, tile + 1, pages);
        else commit();
        // Every warp finds what all need; a warp writes the weights of its own heads.
        float shrink[G], p[G], q[G], best[G], sum[G];
#pragma unroll
        for (int h = 0; h < G; h++) {
            p[h] = held.scores[0][h][lane], q[h] = held.scores[0][h][lane + 32];
            if (HALVES == 2) p[h] += held.scores[HALVES - 1][h][lane], q[h] += held.scores[HALVES - 1][h][lane + 32];
            best[h] = fmaxf(p[h], q[h]);
        }
#pragma unroll
        for (int d = 16; d > 0; d /= 2)
#pragma unroll
            for (int h = 0; h < G; h++) best[h] = fmaxf(best[h], __shfl_xor_sync(~0u, best[h], d));
#pragma unroll
        for (int h = 0; h < G; h++) {
            best[h] = fmaxf(top[h], best[h]);
            p[h] = exp2f(p[h] - best[h]), q[h] = exp2f(q[h] - best[h]);
            sum[h] = p[h] + q[h];
            shrink[h] = exp2f(top[h] - best[h]);
            top[h] = best[h];
            if (warp == h % WARPS) {
                const bf16 high0 = __float2bfloat16(p[h]), high1 = __float2bfloat16(q[h]);
                held.weight[h][lane] = high0, held.weight[h][lane + 32] = high1;
                held.weight[G + h][lane] = __float2bfloat16(p[h] - __bfloat162float(high0));
                held.weight[G + h][lane + 32] = __float2bfloat16(q[h] - __bfloat162float(high1));
            }
        }
#pragma unroll
        for (int d = 16; d > 0; d /= 2)
#pragma unroll
            for (int h = 0; h < G; h++) sum[h] += __shfl_xor_sync(~0u, sum[h], d);
#pragma unroll
        for (int h = 0; h < G; h++) total[h] = total[h] * shrink[h] + sum[h];
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        if (here && warp == VALUE_WARP) keep(held.values[own - begin], own_v);
        __syncthreads();
        // Column 2t (and 2t + 1) of the sums is of query head 2t mod G.
        if (!begins) {
            float even = shrink[0], odd = shrink[G > 1 ? 1 : 0];
            if (G == 4 && t % 2) even = shrink[G - 2], odd = shrink[G - 1];
#pragma unroll
            for (int i = 0; i < PARTS; i++) acc[i][0] *= even, acc[i][1] *= odd, acc[i][2] *= even, acc[i][3] *= odd;
        }
#pragma unroll
        for (int k = 0; k < TILE; k += 16) {
            const uint32_t b0 = *reinterpret_cast<const uint32_t*>(&held.weight[g][k + 2 * t]);
            const uint32_t b1 = *reinterpret_cast<const uint32_t*>(&held.weight[g][k + 8 + 2 * t]);
            const uint32_t at = uint32_t(__cvta_generic_to_shared(
                &held.values[k + lane % 8 + lane / 16 * 8][warp * SLICE + lane / 8 % 2 * (16 / sizeof(E))]));
            if (H::NARROW) {
                // Thirty-two elements at once: a lane has two neighbours of two keys, the even ones for one product, the odd ones
                // for the other.
#pragma unroll
                for (int i = 0; i < PARTS; i += 2) {
                    uint32_t a[4], even[4], odd[4];
                    matrices_transposed(a, at + i * 16);
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        const uint2 wide = widen_f8(a[j]);
                        even[j] = wide.x, odd[j] = wide.y;
                    }
                    mma(acc[i], even, b0, b1);
                    mma(acc[i + 1], odd, b0, b1);
                }
            }
#pragma unroll
            for (int i = 0; i < (H::NARROW ? 0 : PARTS); i++) {
                uint32_t a[4];
                matrices_transposed(a, at + i * 32);
                mma(acc[i], a, b0, b1);
            }
        }
        // The span's sums: the two halves of each weight.
        const bool ends = tile % length == length - 1 || tile + 1 == behind;
        float* to = clustered ? held.sum[0] : partial + (slot + tile / length) * G * DIM;
#pragma unroll
        for (int i = 0; i < PARTS && ends; i++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int d = warp * SLICE + (H::NARROW ? i / 2 * 32 + 2 * g + i % 2 + 16 * e : i * 16 + g + 8 * e);
                float even = acc[i][2 * e], odd = acc[i][2 * e + 1];
                if (G == 1) {
                    if (t == 0) to[d] = even + odd;
                } else {
                    even += __shfl_xor_sync(~0u, even, G / 2);
                    odd += __shfl_xor_sync(~0u, odd, G / 2);
                    if (t < G / 2) to[2 * t * DIM + d] = even, to[(2 * t + 1) % G * DIM + d] = odd;
                }
            }
        if (ends && threadIdx.x == 0) {
#pragma unroll
            for (int h = 0; h < G; h++) {
                if (clustered) held.top[h] = top[h], held.total[h] = total[h];
                else weight_of[(slot + tile / length) * G + h] = make_float2(top[h], total[h]);
            }
        }
        if (tile + 1 < behind) {
            __syncthreads();
            copy(held.values, values, tile + 1, pages);
            pages = pages_of(tile + 2);
        } else {
            commit();
        }
    }
    bf16* to = out + (size_t(row) * kv_heads + head) * G * DIM;
    if (!clustered) {
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) held.last = atomicAdd(&arrived[row * kv_heads + head], 1) == active - 1;
        __syncthreads();
        if (!held.last) return;
        __threadfence();
        if (threadIdx.x == 0) arrived[row * kv_heads + head] = 0;
        for (int unit = threadIdx.x; unit < G * DIM / 4; unit += THREADS) {
            const int h = unit / (DIM / 4), d = unit % (DIM / 4) * 4;
            const float2* weights = weight_of + slot * G + h;
            float best = -INFINITY;
            for (int s = 0; s < spans; s++) best = fmaxf(best, __ldcg(weights + s * G).x);
            Joined joined;
#pragma unroll 4
            for (int s = 0; s < spans; s++) {
                const float2 w = __ldcg(weights + s * G);
                joined.add(exp2f(w.x - best), w.y, __ldcg(reinterpret_cast<const float4*>(partial + ((slot + s) * G + h) * DIM + d)));
            }
            joined.write(to + h * DIM + d);
        }
        return;
    }
    cluster_arrive();
    cluster_wait();
    // A thread takes four elements of a head.
    for (int unit = threadIdx.x * active + number; unit < G * DIM / 4; unit += THREADS * active) {
        const int h = unit / (DIM / 4), d = unit % (DIM / 4) * 4;
        float best = -INFINITY, tops[MOST_BLOCKS];
#pragma unroll
        for (int s = 0; s < MOST_BLOCKS; s++) {
            tops[s] = s < active ? of_block(&held.top[h], s) : -INFINITY;
            best = fmaxf(best, tops[s]);
        }
        Joined joined;
#pragma unroll
        for (int s = 0; s < MOST_BLOCKS; s++)
            if (s < active) joined.add(exp2f(tops[s] - best), of_block(&held.total[h], s), four_of_block(&held.sum[h][d], s));
        joined.write(to + h * DIM + d);
    }
    // No block leaves while another may still read its shared memory.
    cluster_arrive();
    cluster_wait();
}

}  // namespace

// qkv f32 [rows][(G + 2) * kv_heads * DIM]; out bf16 [rows][kv_heads * G * DIM]; keys, values: one layer's, bf16 or
// 8-bit floats [block][kv_head][32][DIM]; each row's `ends` is its position + 1. partial f32 [rows][kv_heads][64][G][DIM]; weight_of
// [rows][kv_heads][64][G]; arrived i32 [rows][kv_heads], zero. Launch: grid (any, kv_heads, rows), in clusters of as many
// blocks as the first dimension has where these are up to 16, block 256 (128 for heads of 128, and slim90), shared memory as `Held`.
#define DECODE(NAME, DIM, G, WARPS, BLOCKS, E)                                                                             \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) NAME##_##DIM##_##G(                                   \
        const float* qkv, const float* q_norm, const float* k_norm, float eps, const float* rope, const int* positions,    \
        const int* ends, const int* sequence_of, const int* tables, int table_stride, E* keys, E* values,                  \
        int window, float scale, float* partial, float2* weight_of, int* arrived, bf16* out) {                             \
        decode<DIM, G, WARPS, E>(qkv, {q_norm, k_norm, eps, rope}, {positions, ends, sequence_of, tables, table_stride},   \
                                 keys, values, window, scale, partial, weight_of, arrived, out);                           \
    }
#define DECODE_ALL(G)                    \
    DECODE(decode90, 256, G, 8, 2, bf16) \
    DECODE(slim90, 256, G, 4, 5, bf16)   \
    DECODE(decode90, 128, G, 4, 5, bf16)
DECODE_ALL(1)
DECODE_ALL(2)
DECODE_ALL(4)
// The published shapes.
DECODE(decode90_f8, 256, 2, 8, 2, uint8_t)
DECODE(decode90_f8, 256, 4, 8, 2, uint8_t)
DECODE(decode90_f8, 128, 2, 4, 5, uint8_t)
