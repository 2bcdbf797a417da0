// The plain kernel of each operation: right for every shape and type, and fast enough where little time goes.
// Products of few rows, attention of one token and attention of many have faster ones beside this file; these are what
// they are held to, and what shapes that they don't take fall back to.

#include "common.cuh"

/// How a matrix or a cache holds its elements.
enum Kind { KIND_F32 = 0, KIND_BF16 = 1, KIND_F8 = 2 };  // 8-bit floats in caches only

__device__ __forceinline__ float load(const void* p, size_t i, int kind) {
    if (kind == KIND_F8) return f8_to_float(static_cast<const uint8_t*>(p)[i]);
    return kind == KIND_BF16 ? __bfloat162float(static_cast<const bf16*>(p)[i]) : static_cast<const float*>(p)[i];
}

__device__ __forceinline__ void store(void* p, size_t i, int kind, float v) {
    if (kind == KIND_BF16) static_cast<bf16*>(p)[i] = __float2bfloat16(v);
    else if (kind == KIND_F8) static_cast<uint8_t*>(p)[i] = float_to_f8(v);
    else static_cast<float*>(p)[i] = v;
}

/// Four elements from one that four divides.
__device__ __forceinline__ float4 load4(const void* p, size_t i, int kind) {
    if (kind == KIND_F32) return *reinterpret_cast<const float4*>(static_cast<const float*>(p) + i);
    uint2 v = *reinterpret_cast<const uint2*>(static_cast<const bf16*>(p) + i);
    float2 a = unpack_bf16(v.x), b = unpack_bf16(v.y);
    return make_float4(a.x, a.y, b.x, b.y);
}

__device__ __forceinline__ void store4(void* p, size_t i, int kind, float4 v) {
    if (kind == KIND_F32) *reinterpret_cast<float4*>(static_cast<float*>(p) + i) = v;
    else *reinterpret_cast<uint2*>(static_cast<bf16*>(p) + i) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
}

/// A step as the host staged it (`Staged` in staged.rs). It is there before the first kernel of a step begins, so it may be
/// read before the wait; past the first-level cache, which may hold what stood there before.
struct Step {
    const uint32_t* ids;
    const uint32_t* positions;
    const uint32_t* ends;
    const uint32_t* sequences;
    const uint32_t* tables;
    int stride;
    __device__ uint32_t id(uint32_t row) const { return __ldcg(ids + row); }
    __device__ uint32_t position(uint32_t row) const { return __ldcg(positions + row); }
    __device__ uint32_t end(uint32_t row) const { return __ldcg(ends + row); }
    __device__ const uint32_t* table(uint32_t row) const { return tables + size_t(__ldcg(sequences + row)) * stride; }
};

/// The sum over a warp, for each of its lanes.
__device__ __forceinline__ float warp_sum(float v) {
    for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(~0u, v, o);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
    for (int o = 16; o > 0; o /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
    return v;
}

/// The sum over a block's threads, for each of them. Who uses `scratch` (32 numbers) again waits for the block before.
__device__ __forceinline__ float block_sum(float v, float* scratch) {
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < (blockDim.x + 31) / 32 ? scratch[threadIdx.x % 32] : 0);
}

__device__ __forceinline__ float block_max(float v, float* scratch) {
    v = warp_max(v);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_max(threadIdx.x % 32 < (blockDim.x + 31) / 32 ? scratch[threadIdx.x % 32] : -INFINITY);
}

#include "plain/blocks.cuh"
#include "plain/elementwise.cuh"
#include "plain/cache.cuh"
#include "plain/product.cuh"
#include "plain/greedy.cuh"
