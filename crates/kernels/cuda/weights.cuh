// Weights as the products of few rows read them (mm.cu, many90.cu): a warp takes tiles of 16 rows and 64 k, and each lane copies
// what it will need itself into a ring in shared memory.
#pragma once
#include "tiles.cuh"

namespace {

constexpr int WARPS = 8;
constexpr int CHUNK = 64;

/// Eight values of x for each of the two groups of 32 of a chunk.
struct Operand {
    uint4 group[2];
};

__device__ __forceinline__ void copy16(char* to, const void* from) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(uint32_t(__cvta_generic_to_shared(to))), "l"(from));
}
__device__ __forceinline__ void copy16_or_zero(char* to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(uint32_t(__cvta_generic_to_shared(to))), "l"(from), "r"(there ? 16 : 0));
}
/// For weights alone: it goes through the first-level cache.
__device__ __forceinline__ void copy8(char* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(uint32_t(__cvta_generic_to_shared(to))), "l"(from));
}
/// bf16 weights, row after row.
struct Bf16 {
    static constexpr bool HALVES = false, ROWS = false;
    static constexpr int BYTES = 2048;  // of a chunk in the ring
    struct Chunk {
        uint4 row[2][2];  // [group][row g, row g + 8]
    };
    struct Source {
        const char* top;
        const char* bottom;
    };
    static __device__ __forceinline__ Source source(const void* w, const void*, const void*, int tile, int n, int k, int g,
                                                    int t) {
        const char* base = static_cast<const char*>(w);
        size_t bytes = size_t(k) * 2;
        int top = min(tile * 16 + g, n - 1), bottom = min(tile * 16 + g + 8, n - 1);
        return {base + top * bytes + 16 * t, base + bottom * bytes + 16 * t};
    }
    static __device__ __forceinline__ void copy(char* ring, const Source& s, int chunk, int lane) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            copy16(ring + j * 1024 + lane * 16, s.top + size_t(chunk) * 128 + 64 * j);
            copy16(ring + j * 1024 + 512 + lane * 16, s.bottom + size_t(chunk) * 128 + 64 * j);
        }
    }
    static __device__ __forceinline__ Chunk read(const char* ring, int lane) {
        Chunk c;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            c.row[j][0] = read16(ring + j * 1024 + lane * 16);
            c.row[j][1] = read16(ring + j * 1024 + 512 + lane * 16);
        }
        return c;
    }
    template <int NT>
    static __device__ __forceinline__ void multiply(float acc[NT][4], const Chunk& c, const Operand x[NT], const float (*)[2][4]) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            uint4 a = c.row[j][0], b = c.row[j][1];
#pragma unroll
            for (int i = 0; i < NT; i++) {
                mma(acc[i], a.x, b.x, a.y, b.y, x[i].group[j].x, x[i].group[j].y);
                mma(acc[i], a.z, b.z, a.w, b.w, x[i].group[j].z, x[i].group[j].w);
            }
        }
    }
};

/// 4-bit weights with a scale for each 32 (and what is taken off, with MINS).
template <bool MINS>
struct Q4 {
    static constexpr bool HALVES = false, ROWS = false;
    static constexpr int BYTES = MINS ? 1536 : 768;
    struct Chunk {
        uint4 q;
        uint4 scale;  // f16 x 4 in .x .y, or f32 x 4
        uint4 min;
    };
    struct Source {
        const char* q;
        const char* scale;
        const char* min;
    };
    static __device__ __forceinline__ Source source(const void* w, const void* scales, const void* mins, int tile, int, int k,
                                                    int g, int t) {
        size_t first = size_t(tile) * (k / CHUNK);
        constexpr int S = MINS ? 128 : 64;
        return {static_cast<const char*>(w) + first * 512 + (4 * g + t) * 16,
                static_cast<const char*>(scales) + first * S + g * (S / 8),
                static_cast<const char*>(mins) + first * S + g * (S / 8)};
    }
    static __device__ __forceinline__ void copy(char* ring, const Source& s, int chunk, int lane) {
        copy16(ring + lane * 16, s.q + size_t(chunk) * 512);
        if (MINS) {
            copy16(ring + 512 + lane * 16, s.scale + size_t(chunk) * 128);
            copy16(ring + 1024 + lane * 16, s.min + size_t(chunk) * 128);
        } else {
            copy8(ring + 512 + lane * 8, s.scale + size_t(chunk) * 64);
        }
    }
    static __device__ __forceinline__ Chunk read(const char* ring, int lane) {
        Chunk c;
        c.q = read16(ring + lane * 16);
        if (MINS) {
            c.scale = read16(ring + 512 + lane * 16);
            c.min = read16(ring + 1024 + lane * 16);
        } else {
            uint2 v = read8(ring + 512 + lane * 8);
            c.scale.x = v.x;
            c.scale.y = v.y;
        }
        return c;
    }
    template <int NT>
    static __device__ __forceinline__ void multiply(float acc[NT][4], const Chunk& c, const Operand x[NT],
                                                    const float (*sums)[2][4]) {
        constexpr uint32_t OFFSET = MINS ? 0x43004300u : 0x43084308u;  // 128, 136
        const uint32_t mask = nibble_mask();
#pragma unroll
        for (int j = 0; j < 2; j++) {
            uint4 a = nibbles(j ? c.q.z : c.q.x, OFFSET, mask), b = nibbles(j ? c.q.w : c.q.y, OFFSET, mask);
            float top, bottom;
            if (MINS) {
                top = __uint_as_float(j ? c.scale.z : c.scale.x);
                bottom = __uint_as_float(j ? c.scale.w : c.scale.y);
            } else {
                float2 s = half2_to_float2(j ? c.scale.y : c.scale.x);
                top = s.x;
                bottom = s.y;
            }
#pragma unroll
            for (int i = 0; i < NT; i++) {
                float part[4] = {0, 0, 0, 0};
                mma(part, a.x, b.x, a.y, b.y, x[i].group[j].x, x[i].group[j].y);
                mma(part, a.z, b.z, a.w, b.w, x[i].group[j].z, x[i].group[j].w);
                acc[i][0] += top * part[0];
                acc[i][1] += top * part[1];
                acc[i][2] += bottom * part[2];
                acc[i][3] += bottom * part[3];
                if (MINS) {
                    float mt = __uint_as_float(j ? c.min.z : c.min.x), mb = __uint_as_float(j ? c.min.w : c.min.y);
                    acc[i][0] -= mt * sums[i][j][0];
                    acc[i][1] -= mt * sums[i][j][1];
                    acc[i][2] -= mb * sums[i][j][2];
                    acc[i][3] -= mb * sums[i][j][3];
                }
            }
        }
    }
};

/// 8-bit weights with an f16 scale for each 32, or (HALF) an f32 one for each 16.
template <bool HALF>
struct Q8 {
    static constexpr bool HALVES = HALF, ROWS = false;
    static constexpr int BYTES = HALF ? 2048 : 1280;
    struct Chunk {
        uint4 q[2];
        uint4 scale[2];  // f16 x 4 in [0].x .y, or f32 x 8
    };
    struct Source {
        const char* q;
        const char* scale;
    };
    static __device__ __forceinline__ Source source(const void* w, const void* scales, const void*, int tile, int, int k, int g,
                                                    int t) {
        size_t first = size_t(tile) * (k / CHUNK);
        constexpr int S = HALF ? 256 : 64;
        return {static_cast<const char*>(w) + first * 1024 + (4 * g + t) * 16,
                static_cast<const char*>(scales) + first * S + g * (S / 8)};
    }
    static __device__ __forceinline__ void copy(char* ring, const Source& s, int chunk, int lane) {
        copy16(ring + lane * 16, s.q + size_t(chunk) * 1024);
        copy16(ring + 512 + lane * 16, s.q + size_t(chunk) * 1024 + 512);
        if (HALF) {
            copy16(ring + 1024 + lane * 16, s.scale + size_t(chunk) * 256);
            copy16(ring + 1536 + lane * 16, s.scale + size_t(chunk) * 256 + 16);
        } else {
            copy8(ring + 1024 + lane * 8, s.scale + size_t(chunk) * 64);
        }
    }
    static __device__ __forceinline__ Chunk read(const char* ring, int lane) {
        Chunk c;
        c.q[0] = read16(ring + lane * 16);
        c.q[1] = read16(ring + 512 + lane * 16);
        if (HALF) {
            c.scale[0] = read16(ring + 1024 + lane * 16);
            c.scale[1] = read16(ring + 1536 + lane * 16);
        } else {
            uint2 v = read8(ring + 1024 + lane * 8);
            c.scale[0].x = v.x;
            c.scale[0].y = v.y;
        }
        return c;
    }
    static __device__ __forceinline__ void add(float acc[4], const float part[4], float top, float bottom) {
        acc[0] += top * part[0];
        acc[1] += top * part[1];
        acc[2] += bottom * part[2];
        acc[3] += bottom * part[3];
    }
    template <int NT>
    static __device__ __forceinline__ void multiply(float acc[NT][4], const Chunk& c, const Operand x[NT], const float (*)[2][4]) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            uint2 a0 = bytes(c.q[j].x), a1 = bytes(c.q[j].y), b0 = bytes(c.q[j].z), b1 = bytes(c.q[j].w);
            float2 s = half2_to_float2(j ? c.scale[0].y : c.scale[0].x);
#pragma unroll
            for (int i = 0; i < NT; i++) {
                float part[4] = {0, 0, 0, 0};
                mma(part, a0.x, b0.x, a0.y, b0.y, x[i].group[j].x, x[i].group[j].y);
                if (HALF) {
                    float second[4] = {0, 0, 0, 0};
                    mma(second, a1.x, b1.x, a1.y, b1.y, x[i].group[j].z, x[i].group[j].w);
                    add(acc[i], part, __uint_as_float(c.scale[j].x), __uint_as_float(c.scale[j].z));
                    add(acc[i], second, __uint_as_float(c.scale[j].y), __uint_as_float(c.scale[j].w));
                } else {
                    mma(part, a1.x, b1.x, a1.y, b1.y, x[i].group[j].z, x[i].group[j].w);
                    add(acc[i], part, s.x, s.y);
                }
            }
        }
    }
};

/// 8-bit floats (E4M3); each row's scale is for its sums.
struct F8 {
    static constexpr bool HALVES = false, ROWS = true;
    static constexpr int BYTES = 1024;
    struct Chunk {
        uint4 q[2];
    };
    struct Source {
        const char* q;
    };
    static __device__ __forceinline__ Source source(const void* w, const void*, const void*, int tile, int, int k, int g, int t) {
        return {static_cast<const char*>(w) + size_t(tile) * (k / CHUNK) * 1024 + (4 * g + t) * 16};
    }
    static __device__ __forceinline__ void copy(char* ring, const Source& s, int chunk, int lane) {
        copy16(ring + lane * 16, s.q + size_t(chunk) * 1024);
        copy16(ring + 512 + lane * 16, s.q + size_t(chunk) * 1024 + 512);
    }
    static __device__ __forceinline__ Chunk read(const char* ring, int lane) {
        return {{read16(ring + lane * 16), read16(ring + 512 + lane * 16)}};
    }
    template <int NT>
    static __device__ __forceinline__ void multiply(float acc[NT][4], const Chunk& c, const Operand x[NT], const float (*)[2][4]) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const uint2 a0 = widen_f8(c.q[j].x), a1 = widen_f8(c.q[j].y), b0 = widen_f8(c.q[j].z), b1 = widen_f8(c.q[j].w);
#pragma unroll
            for (int i = 0; i < NT; i++) {
                mma(acc[i], a0.x, b0.x, a0.y, b0.y, x[i].group[j].x, x[i].group[j].y);
                mma(acc[i], a1.x, b1.x, a1.y, b1.y, x[i].group[j].z, x[i].group[j].w);
            }
        }
    }
};

/// What the sums of a row of w are multiplied with: asked for long before they are there.
template <class W>
__device__ __forceinline__ float scale_of(const void* scales, int row) {
    return W::ROWS ? __ldg(static_cast<const float*>(scales) + row) : 1.0f;
}

}  // namespace
