// The cache of keys and values, [layer][block][kv_head][32][dim], and attention over it.
#pragma once

constexpr int BLOCK_TOKENS = 32;

/// One layer of a cache.
struct Layer {
    void* keys;
    void* values;
    int kind;
    int kv_heads;
    int dim;
    __device__ size_t at(uint32_t block, int head, uint32_t slot) const {
        return ((size_t(block) * kv_heads + head) * BLOCK_TOKENS + slot) * dim;
    }
};

/// Pairs of a head that a lane holds: heads are up to 512 wide.
constexpr int PAIRS = 8;

/// Splits qkv into q, k and v; with a table norms and rotates q and k; writes q to `q`, k and v to the cache. A warp takes a
/// head of a row (of q, then k, then v), a lane the elements i and i + dim / 2 of it.
extern "C" __global__ void store_heads(const void* qkv, int qkv_kind, int rows, int heads, const float* q_norm,
                                       const float* k_norm, float eps, const float* rope, Step step, Layer layer, void* q,
                                       int q_kind) {
    launch_next();
    int lane = threadIdx.x % 32, item = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int dim = layer.dim, half = dim / 2, all = heads + 2 * layer.kv_heads, row = item / all, head = item % all;
    bool there = row < rows, is_q = head < heads, is_k = !is_q && head < heads + layer.kv_heads;
    bool rotated = rope != nullptr && (is_q || is_k);
    void* out = q;
    int kind = q_kind;
    size_t to = (size_t(row) * heads + head) * dim;
    if (there && !is_q) {
        uint32_t position = step.position(row), block = __ldcg(step.table(row) + position / BLOCK_TOKENS);
        out = is_k ? layer.keys : layer.values;
        kind = layer.kind;
        to = layer.at(block, head - heads - (is_k ? 0 : layer.kv_heads), position % BLOCK_TOKENS);
    }
    const float* norm = is_q ? q_norm : k_norm;
    float2 weight[PAIRS];
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        int i = lane + 32 * j;
        weight[j] = rotated && i < half ? make_float2(norm[i], norm[i + half]) : make_float2(1, 1);
    }
    wait_for_former();
    if (!there) return;
    size_t from = (size_t(row) * all + head) * dim;
    float2 v[PAIRS], turn[PAIRS];
    float sum = 0;
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        int i = lane + 32 * j;
        bool own = i < half;
        v[j] = own ? make_float2(load(qkv, from + i, qkv_kind), load(qkv, from + half + i, qkv_kind)) : make_float2(0, 0);
        turn[j] = rotated && own ? make_float2(rope[size_t(row) * dim + i], rope[size_t(row) * dim + half + i]) : make_float2(1, 0);
        sum += v[j].x * v[j].x + v[j].y * v[j].y;
    }
    float inverse = rotated ? 1.0f / sqrtf(warp_sum(sum) / dim + eps) : 1;
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        int i = lane + 32 * j;
        if (i >= half) break;
        float a = v[j].x * inverse * weight[j].x, b = v[j].y * inverse * weight[j].y;
        store(out, to + i, kind, a * turn[j].x - b * turn[j].y);
        store(out, to + half + i, kind, b * turn[j].x + a * turn[j].y);
    }
}

/// As store_heads where nothing is normed or rotated and all is bf16: a thread moves eight elements.
extern "C" __global__ void copy_heads(const bf16* qkv, int rows, int heads, Step step, Layer layer, bf16* q) {
    launch_next();
    wait_for_former();
    const int pieces = layer.dim / 8, all = heads + 2 * layer.kv_heads;
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x, item = i / pieces;
    const int piece = int(i % pieces) * 8, row = int(item / all), head = int(item % all);
    if (row >= rows) return;
    bf16* to = q + (size_t(row) * heads + head) * layer.dim;
    if (head >= heads) {
        const uint32_t position = step.position(row), block = __ldcg(step.table(row) + position / BLOCK_TOKENS);
        const int own = head - heads;
        const bool is_k = own < layer.kv_heads;
        to = static_cast<bf16*>(is_k ? layer.keys : layer.values) + layer.at(block, is_k ? own : own - layer.kv_heads, position % BLOCK_TOKENS);
    }
    *reinterpret_cast<uint4*>(to + piece) = *reinterpret_cast<const uint4*>(qkv + i * 8);
}

/// One layer of a cache of 8-bit floats as one of bf16, block by block: those in the step's tables (entry, sequence), which
/// attention of many rows then reads. A thread takes sixteen elements at once.
extern "C" __global__ void widen_layer(Step step, Layer layer, bf16* keys, bf16* values) {
    launch_next();
    wait_for_former();
    const uint32_t block = __ldcg(step.tables + size_t(blockIdx.y) * step.stride + blockIdx.x);
    // Blocks that have left the window, and what fills up a table.
    if (block == ~0u) return;
    const int pieces = layer.kv_heads * BLOCK_TOKENS * layer.dim / 16;
    for (int i = threadIdx.x; i < 2 * pieces; i += blockDim.x) {
        const size_t at = size_t(block) * pieces + i % pieces;
        const uint4 from = __ldcg(static_cast<const uint4*>(i < pieces ? layer.keys : layer.values) + at);
        uint4* const to = reinterpret_cast<uint4*>(i < pieces ? keys : values) + 2 * at;
        const uint2 a = widen_f8(from.x), b = widen_f8(from.y), c = widen_f8(from.z), d = widen_f8(from.w);
        // Pairs of bytes 0 and 2, 1 and 3 back in their order.
        to[0] = make_uint4(__byte_perm(a.x, a.y, 0x5410), __byte_perm(a.x, a.y, 0x7632), __byte_perm(b.x, b.y, 0x5410), __byte_perm(b.x, b.y, 0x7632));
        to[1] = make_uint4(__byte_perm(c.x, c.y, 0x5410), __byte_perm(c.x, c.y, 0x7632), __byte_perm(d.x, d.y, 0x5410), __byte_perm(d.x, d.y, 0x7632));
    }
}

/// Eight elements of a cache.
__device__ __forceinline__ void eight_of(const void* p, size_t i, int kind, float v[8]) {
    if (kind == KIND_BF16) {
        uint4 w = *reinterpret_cast<const uint4*>(static_cast<const bf16*>(p) + i);
        float2 a = unpack_bf16(w.x), b = unpack_bf16(w.y), c = unpack_bf16(w.z), d = unpack_bf16(w.w);
        v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y, v[4] = c.x, v[5] = c.y, v[6] = d.x, v[7] = d.y;
    } else if (kind == KIND_F8) {
        for (int e = 0; e < 8; e++) v[e] = f8_to_float(static_cast<const uint8_t*>(p)[i + e]);
    } else {
        for (int e = 0; e < 8; e++) v[e] = static_cast<const float*>(p)[i + e];
    }
}

constexpr int SPAN = 128;
/// A thread of attention holds this many elements of a head: heads are up to 512 wide.
constexpr int OWN = 4;

/// Attention of a row's query head: (row, head), 128 threads, `dim` floats of shared memory. Keys lo..end in spans of 128,
/// one a thread; then each thread sums its elements of the values.
extern "C" __global__ void attention(const void* q, int q_kind, int heads, Layer layer, Step step, int window, float scale,
                                     void* out, int out_kind) {
    extern __shared__ float query[];
    __shared__ float weights[SPAN], tops[32], sums[32];
    __shared__ size_t places[SPAN];
    launch_next();
    wait_for_former();
    int row = blockIdx.x, head = blockIdx.y, dim = layer.dim, kv_head = head / (heads / layer.kv_heads), tid = threadIdx.x;
    size_t from = (size_t(row) * heads + head) * dim;
    for (int d = tid; d < dim; d += SPAN) query[d] = load(q, from + d, q_kind) * scale;
    int position = step.position(row), end = step.end(row);
    int lo = window > 0 ? max(position + 1 - window, 0) : 0;
    const uint32_t* table = step.table(row);
    float acc[OWN] = {}, top = -INFINITY, sum = 0;
    for (int first = lo; first < end; first += SPAN) {
        int key = first + tid;
        float score = -INFINITY;
        __syncthreads();
        if (key < end) {
            size_t place = layer.at(table[key / BLOCK_TOKENS], kv_head, key % BLOCK_TOKENS);
            places[tid] = place;
            score = 0;
            if (dim % 8 == 0) {
                for (int d = 0; d < dim; d += 8) {
                    float v[8];
                    eight_of(layer.keys, place + d, layer.kind, v);
#pragma unroll
                    for (int e = 0; e < 8; e++) score += v[e] * query[d + e];
                }
            } else {
                for (int d = 0; d < dim; d++) score += load(layer.keys, place + d, layer.kind) * query[d];
            }
        }
        float best = fmaxf(top, block_max(score, tops));
        float weight = key < end ? expf(score - best) : 0, shrink = expf(top - best);
        weights[tid] = weight;
        sum = sum * shrink + block_sum(weight, sums);
        top = best;
        int count = min(SPAN, end - first);
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            int d = tid + i * SPAN;
            if (d >= dim) break;
            float total = acc[i] * shrink;
            for (int j = 0; j < count; j++) total += weights[j] * load(layer.values, places[j] + d, layer.kind);
            acc[i] = total;
        }
    }
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        int d = tid + i * SPAN;
        if (d < dim) store(out, from + d, out_kind, acc[i] / sum);
    }
}
