// What the kernels share.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

using bf16 = __nv_bfloat16;

/// Waits until the kernels before this one have ended and their results can be read (nothing without a dependency).
__device__ __forceinline__ void wait_for_former() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next kernel begin; it waits for this one's end before it reads.
__device__ __forceinline__ void launch_next() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Weights: read once, never written while kernels run, so they may be read before the wait.
__device__ __forceinline__ uint4 load_stream16(const void* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
__device__ __forceinline__ uint2 load_stream8(const void* p) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}

/// Activations: past the first-level cache, which may hold what stood there before the former kernel wrote.
__device__ __forceinline__ uint4 load_cg16(const void* p) {
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
__device__ __forceinline__ uint2 load_cg8(const void* p) {
    uint2 v;
    asm volatile("ld.global.cg.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}

/// a - b in both halves.
__device__ __forceinline__ uint32_t sub_bf16x2(uint32_t a, uint32_t b) {
    __nv_bfloat162 r = __hsub2(*reinterpret_cast<__nv_bfloat162*>(&a), *reinterpret_cast<__nv_bfloat162*>(&b));
    return *reinterpret_cast<uint32_t*>(&r);
}

/// Two values as bf16, the first in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    __nv_bfloat162 r = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t*>(&r);
}

__device__ __forceinline__ float2 unpack_bf16(uint32_t v) {
    return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u));
}

__device__ __forceinline__ float2 half2_to_float2(uint32_t v) {
    return __half22float2(*reinterpret_cast<__half2*>(&v));
}

/// Four 8-bit floats (E4M3) as two pairs of bf16: bytes 0 and 2, then 1 and 3. Exact: their bits are those of bf16 numbers
/// that are 2^120 times smaller. The two codes that aren't numbers count as 480.
__device__ __forceinline__ uint2 widen_f8(uint32_t v) {
    const uint32_t even = ((v << 8) & 0x80008000u) | ((v << 4) & 0x07f007f0u);
    const uint32_t odd = (v & 0x80008000u) | ((v >> 4) & 0x07f007f0u);
    const __nv_bfloat162 up = __halves2bfloat162(__ushort_as_bfloat16(0x7b80), __ushort_as_bfloat16(0x7b80));
    __nv_bfloat162 a = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&even), up);
    __nv_bfloat162 b = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&odd), up);
    return make_uint2(*reinterpret_cast<uint32_t*>(&a), *reinterpret_cast<uint32_t*>(&b));
}

__device__ __forceinline__ float f8_to_float(uint8_t v) {
    return __uint_as_float((v & 0x80u) << 24 | (v & 0x7fu) << 20) * 0x1p120f;
}

/// The nearest 8-bit float, ties to even; what is beyond the largest, or not a number, becomes the largest.
__device__ __forceinline__ uint8_t float_to_f8(float v) {
    const uint32_t sign = __float_as_uint(v) >> 24 & 0x80u;
    const float size = fminf(fabsf(v), 448.0f);
    const uint32_t bits = __float_as_uint(size);
    // Below the smallest normal number in steps of the smallest.
    const uint32_t code = size < 0x1p-6f ? uint32_t(rintf(size * 512.0f)) : ((bits + 0x7ffffu + (bits >> 20 & 1)) >> 20) - (120 << 3);
    return uint8_t(sign | code);
}

/// The tanh form of GELU, as the reference computes it.
__device__ __forceinline__ float gelu_tanh(float x) {
    float inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);
    return 0.5f * x * (1.0f + tanhf(inner));
}
