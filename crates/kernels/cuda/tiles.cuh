// The tensor cores' instruction for few rows, and the elements of quantized tiles as its operands.
#pragma once
#include "common.cuh"

__device__ __forceinline__ void mma(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                    uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint4 read16(const char* at) { return *reinterpret_cast<const uint4*>(at); }
__device__ __forceinline__ uint2 read8(const char* at) { return *reinterpret_cast<const uint2*>(at); }

/// (v & 0x000f000f) | 0x43004300 in one instruction: the compiler makes two where both constants are known.
__device__ __forceinline__ uint32_t low_nibbles(uint32_t v, uint32_t mask) {
    uint32_t r;
    asm("lop3.b32 %0, %1, %2, 0x43004300, 0xea;" : "=r"(r) : "r"(v), "r"(mask));
    return r;
}

/// The mask of `low_nibbles`, in a register.
__device__ __forceinline__ uint32_t nibble_mask() {
    uint32_t r;
    asm volatile("mov.b32 %0, 0x000f000f;" : "=r"(r));
    return r;
}

/// Eight nibbles as four pairs of bf16, `offset` taken off: exact.
__device__ __forceinline__ uint4 nibbles(uint32_t v, uint32_t offset, uint32_t mask) {
    uint4 r;
    r.x = sub_bf16x2(low_nibbles(v, mask), offset);
    r.y = sub_bf16x2(low_nibbles(v >> 4, mask), offset);
    r.z = sub_bf16x2(low_nibbles(v >> 8, mask), offset);
    r.w = sub_bf16x2(low_nibbles(v >> 12, mask), offset);
    return r;
}

/// Four signed bytes as two pairs of bf16: exact.
__device__ __forceinline__ uint2 bytes(uint32_t v) {
    v ^= 0x80808080u;
    float f[4];
#pragma unroll
    for (int i = 0; i < 4; i++) f[i] = __uint_as_float(__byte_perm(v, 0x4b000000u, 0x7650 + i)) - 8388736.0f;
    return make_uint2(pack_bf16(f[0], f[1]), pack_bf16(f[2], f[3]));
}
