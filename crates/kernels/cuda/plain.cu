// The plain kernel of each operation: right for every shape and type, and fast enough where little time goes.
// Products of few rows, attention of one token and attention of many have faster ones beside this file; these are what
// they are held to, and what shapes that they don't take fall back to.

#include "common.cuh"

/// How a matrix or a cache holds its elements.
enum Kind { KIND_F32 = 0, KIND_BF16 = 1 };

__device__ __forceinline__ float load(const void* p, size_t i, int kind) {
    return kind == KIND_BF16 ? __bfloat162float(static_cast<const bf16*>(p)[i]) : static_cast<const float*>(p)[i];
}

__device__ __forceinline__ void store(void* p, size_t i, int kind, float v) {
    if (kind == KIND_BF16) static_cast<bf16*>(p)[i] = __float2bfloat16(v);
    else static_cast<float*>(p)[i] = v;
}

/// A step as the host staged it (`Staged` in staged.rs): a header of 16 numbers, then for each row its token, position,
/// end and sequence, then the sequences' block tables.
struct Step {
    const uint32_t* at;
    __device__ uint32_t rows() const { return at[0]; }
    __device__ uint32_t stride() const { return at[2]; }
    __device__ uint32_t id(uint32_t row) const { return at[16 + row]; }
    __device__ uint32_t position(uint32_t row) const { return at[16 + rows() + row]; }
    __device__ uint32_t end(uint32_t row) const { return at[16 + 2 * rows() + row]; }
    __device__ const uint32_t* table(uint32_t row) const {
        uint32_t sequence = at[16 + 3 * rows() + row];
        return at + 16 + 4 * rows() + size_t(sequence) * stride();
    }
};

/// The sum over a block's threads, for each of them. `scratch` has room for 33.
__device__ __forceinline__ float block_sum(float v, float* scratch) {
    for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(~0u, v, o);
    int warps = (blockDim.x + 31) / 32;
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x < 32) {
        float s = threadIdx.x < warps ? scratch[threadIdx.x] : 0;
        for (int o = 16; o > 0; o /= 2) s += __shfl_xor_sync(~0u, s, o);
        if (threadIdx.x == 0) scratch[32] = s;
    }
    __syncthreads();
    return scratch[32];
}

__device__ __forceinline__ float block_max(float v, float* scratch) {
    for (int o = 16; o > 0; o /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
    int warps = (blockDim.x + 31) / 32;
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x < 32) {
        float s = threadIdx.x < warps ? scratch[threadIdx.x] : -INFINITY;
        for (int o = 16; o > 0; o /= 2) s = fmaxf(s, __shfl_xor_sync(~0u, s, o));
        if (threadIdx.x == 0) scratch[32] = s;
    }
    __syncthreads();
    return scratch[32];
}

#include "plain/blocks.cuh"
#include "plain/elementwise.cuh"
#include "plain/cache.cuh"
#include "plain/product.cuh"
#include "plain/greedy.cuh"
