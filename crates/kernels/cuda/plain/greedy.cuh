// The most likely token of each row of logits.
#pragma once

constexpr int PARTS = 64;

/// The greatest logit of a part of a row and where it is first; of a row, the token and its logit.
struct Best {
    uint32_t id;
    float logit;
};

/// Whether one beats another: as the host goes through them, the first of equals wins.
__device__ __forceinline__ bool beats(Best a, Best b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

__device__ __forceinline__ Best best_of_warp(Best best) {
    for (int o = 16; o > 0; o /= 2) {
        Best other = {__shfl_xor_sync(~0u, best.id, o), __shfl_xor_sync(~0u, best.logit, o)};
        if (beats(other, best)) best = other;
    }
    return best;
}

/// (part, row), 256 threads.
extern "C" __global__ void greedy_parts(const float* logits, int vocab, Best* parts) {
    __shared__ Best warps[8];
    launch_next();
    wait_for_former();
    const float* row = logits + size_t(blockIdx.y) * vocab;
    int each = (vocab + PARTS - 1) / PARTS, begin = blockIdx.x * each, end = min(begin + each, vocab);
    Best best = {0xffffffffu, -INFINITY};
    for (int i = begin + threadIdx.x; i < end; i += blockDim.x)
        if (row[i] > best.logit) best = {uint32_t(i), row[i]};
    best = best_of_warp(best);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < 8; i++)
            if (beats(warps[i], best)) best = warps[i];
        parts[blockIdx.y * PARTS + blockIdx.x] = best;
    }
}

/// (row), 32 threads: joins the parts. Where no logit is a number above -inf, the first is taken, whatever it is.
extern "C" __global__ void greedy_rows(const float* logits, int vocab, const Best* parts, Best* out) {
    launch_next();
    wait_for_former();
    const Best* row = parts + blockIdx.x * PARTS;
    Best best = {0xffffffffu, -INFINITY};
    for (int i = threadIdx.x; i < PARTS; i += 32)
        if (beats(row[i], best)) best = row[i];
    best = best_of_warp(best);
    if (threadIdx.x == 0) {
        uint32_t id = best.id < uint32_t(vocab) ? best.id : 0;
        out[blockIdx.x] = {id, logits[size_t(blockIdx.x) * vocab + id]};
    }
}
