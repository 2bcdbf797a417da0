// Products of few rows (a step of decoding): out = x * w^T with x bf16 [m][k], w [n][k] in bf16 or quantized tiles.
//
// Bound by reading w once. A warp takes tiles of 16 rows of w and 64 of k in the order that mma.m16n8k16 wants: the order
// of k inside a dot product is free, so a lane's 16 bytes are eight consecutive k of one row, and the lane takes the same
// eight of x. Each lane copies what it will need itself into a ring in shared memory, several chunks ahead, so that no
// thread waits for another. The eight warps of a block share k (chunk c belongs to warp c mod 8) and are summed in a
// fixed order, so a row of x has the same bits whatever stands beside it. A block goes through several tiles, and the
// next one's weights are on their way while it sums this one.
//
// The first chunks of w are asked for before the kernel waits for the one before it (programmatic dependent launch):
// while that one ends, the memory is busy.

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
    static constexpr bool HALVES = false;
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
    static constexpr bool HALVES = false;
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
    static constexpr bool HALVES = HALF;
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

enum Finish { F32, BF16, GEGLU };

/// Shared memory of a block: two blocks fit on a multiprocessor with 8 rows of x, one with more.
template <int NT>
constexpr int SHARED = NT == 1 ? 102400 : 204800;

/// MT tiles of 16 rows of w, NT tiles of 8 rows of x.
template <class W, bool MINS, Finish FINISH, int NT, int MT>
__device__ __forceinline__ void product(const void* w, const void* scales, const void* mins, const bf16* x, void* out, int m,
                                        int n, int k) {
    constexpr int SUMS = MT * NT * 4 * 32;                    // floats of a warp
    constexpr int STAGE = MT * W::BYTES + NT * 1024;          // bytes of a warp's chunk
    constexpr int MOST = (SHARED<NT> - WARPS * SUMS * 4) / (WARPS * STAGE), STAGES = MOST < 8 ? MOST : 8;
    static_assert(STAGES >= 2, "a ring needs two stages");
    extern __shared__ __align__(16) char shared[];
    float* sums_of = reinterpret_cast<float*>(shared);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    char* ring = shared + WARPS * SUMS * 4 + warp * STAGES * STAGE;
    const int token0 = blockIdx.y * NT * 8, chunks = k / CHUNK;
    const int tiles = (n + 15) / 16, steps = FINISH == GEGLU ? tiles / 2 : (tiles + MT - 1) / MT;
    const int mine = (steps - int(blockIdx.x) + int(gridDim.x) - 1) / int(gridDim.x);  // steps of MT tiles
    const int each = (chunks + WARPS - 1) / WARPS;                                       // chunks of a warp in each
    // What the ring takes in next.
    typename W::Source source[MT];
    int in_step = 0, in_chunk = each, stage_in = 0;
    auto take = [&](bool weights, bool rows) {
        if (in_chunk == each) {
            in_chunk = 0;
            const int step = int(blockIdx.x) + in_step++ * int(gridDim.x);
#pragma unroll
            for (int i = 0; i < MT; i++) {
                int tile = FINISH == GEGLU ? step + i * (tiles / 2) : step * MT + i;
                source[i] = W::source(w, scales, mins, min(tile, tiles - 1), n, k, g, t);
            }
        }
        const int chunk = warp + in_chunk++ * WARPS;
        char* to = ring + stage_in * STAGE;
        stage_in = stage_in + 1 == STAGES ? 0 : stage_in + 1;
        if (chunk < chunks) {
            if (weights) {
#pragma unroll
                for (int i = 0; i < MT; i++) W::copy(to + i * W::BYTES, source[i], chunk, lane);
            }
            if (rows) {
#pragma unroll
                for (int i = 0; i < NT; i++) {
                    const int token = token0 + 8 * i + g;
                    const char* from = reinterpret_cast<const char*>(x + size_t(min(token, m - 1)) * k + chunk * CHUNK) + 16 * t;
                    char* at = to + MT * W::BYTES + i * 1024 + g * 64 + t * 16;
                    copy16_or_zero(at, from, token < m);
                    copy16_or_zero(at + 512, from + 64, token < m);
                }
            }
        }
    };
    const int total = mine * each;
#pragma unroll 1
    for (int i = 0; i < STAGES - 1; i++)
        if (i < total) take(true, false);
    wait_for_former();
    launch_next();
    // The same chunks' rows of x, each with its weights' group: one group holds all that was asked for before.
    in_step = 0, in_chunk = each, stage_in = 0;
#pragma unroll 1
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < total) take(false, true);
        asm volatile("cp.async.commit_group;");
    }
    int stage = 0;
    for (int step = 0; step < mine; step++) {
        float acc[MT][NT][4] = {};
#pragma unroll 1
        for (int c = 0; c < each; c++) {
            asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
            if (W::HALVES) __syncwarp();
            if (warp + c * WARPS < chunks) {
                const char* from = ring + stage * STAGE;
                Operand b[NT];
                float sums[NT][2][4];
#pragma unroll
                for (int i = 0; i < NT; i++) {
                    const char* at = from + MT * W::BYTES + i * 1024 + g * 64;
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        if (W::HALVES) {
                            uint2 a = read8(at + 512 * j + 8 * t), d = read8(at + 512 * j + 32 + 8 * t);
                            b[i].group[j] = make_uint4(a.x, a.y, d.x, d.y);
                        } else {
                            b[i].group[j] = read16(at + 512 * j + 16 * t);
                        }
                        if (MINS) {
                            constexpr uint32_t ONE = 0x3f803f80u;
                            float* sum = sums[i][j];
                            sum[0] = sum[1] = sum[2] = sum[3] = 0;
                            mma(sum, ONE, ONE, ONE, ONE, b[i].group[j].x, b[i].group[j].y);
                            mma(sum, ONE, ONE, ONE, ONE, b[i].group[j].z, b[i].group[j].w);
                        }
                    }
                }
#pragma unroll
                for (int i = 0; i < MT; i++) W::template multiply<NT>(acc[i], W::read(from + i * W::BYTES, lane), b, sums);
            }
            if (W::HALVES) __syncwarp();
            stage = stage + 1 == STAGES ? 0 : stage + 1;
            if (step * each + c + STAGES - 1 < total) take(true, true);
            asm volatile("cp.async.commit_group;");
        }
        if (step > 0) __syncthreads();
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) sums_of[warp * SUMS + ((i * NT + j) * 4 + e) * 32 + lane] = acc[i][j][e];
        __syncthreads();
        // An element of the step's results: tile of rows i, tile of tokens j, element e of lane l.
        constexpr int RESULTS = (FINISH == GEGLU ? 1 : MT) * NT * 4 * 32;
        auto total_of = [&](int tile, int e, int l) {
            float sum = 0;
#pragma unroll
            for (int from = 0; from < WARPS; from++) sum += sums_of[from * SUMS + (tile * 4 + e) * 32 + l];
            return sum;
        };
        const int tile0 = int(blockIdx.x) + step * int(gridDim.x);
        for (int at = threadIdx.x; at < RESULTS; at += WARPS * 32) {
            // Neighbouring threads take neighbouring rows of w, so that they write side by side.
            int l = (at % 8) * 4 + (at / 16) % 4, half = (at / 8) % 2, odd = (at / 64) % 2, tile = at / 128;
            int i = tile / NT, j = tile % NT, e = 2 * half + odd;
            int row = at % 8 + 8 * half, token = token0 + 8 * j + 2 * (l % 4) + odd;
            if (token >= m) continue;
            if (FINISH == GEGLU) {
                float gate = total_of(j, e, l), up = total_of(NT + j, e, l);
                static_cast<bf16*>(out)[size_t(token) * (n / 2) + tile0 * 16 + row] = __float2bfloat16(gelu_tanh(gate) * up);
            } else {
                int column = (tile0 * MT + i) * 16 + row;
                if (column >= n) continue;
                float sum = total_of(tile, e, l);
                if (FINISH == BF16) static_cast<bf16*>(out)[size_t(token) * n + column] = __float2bfloat16(sum);
                else static_cast<float*>(out)[size_t(token) * n + column] = sum;
            }
        }
    }
}

}  // namespace

// Launch: block 256; grid (b, ceil(m / (8 * nt))) with any b up to the steps: ceil(n / 16) for nt 1 (f32, bf16),
// ceil(n / 32) otherwise (geglu: n / 32); best is steps / ceil(steps / (2 * multiprocessors, 1 * for nt 2 and 4)), rounded up.
// Dynamic shared memory 102400 bytes for nt 1, else 204800.
#define MM(NAME, W, MINS, FINISH, NT, MT)                                                                             \
    extern "C" __global__ void __launch_bounds__(256, NT == 1 ? 2 : 1)                                                  \
        mm_##NAME##_##NT(const void* w, const void* scales, const void* mins, const bf16* x, void* out, int m, int n,   \
                           int k) {                                                                                     \
        product<W, MINS, FINISH, NT, MT>(w, scales, mins, x, out, m, n, k);                                             \
    }
#define MM_ALL(NAME, W, MINS)                                                                                         \
    MM(NAME##_f32, W, MINS, F32, 1, 1)                                                                                \
    MM(NAME##_f32, W, MINS, F32, 2, 2)                                                                                \
    MM(NAME##_f32, W, MINS, F32, 4, 2)                                                                                \
    MM(NAME##_bf16, W, MINS, BF16, 1, 1)                                                                              \
    MM(NAME##_bf16, W, MINS, BF16, 2, 2)                                                                              \
    MM(NAME##_bf16, W, MINS, BF16, 4, 2)                                                                              \
    MM(NAME##_geglu, W, MINS, GEGLU, 1, 2)                                                                            \
    MM(NAME##_geglu, W, MINS, GEGLU, 2, 2)                                                                            \
    MM(NAME##_geglu, W, MINS, GEGLU, 4, 2)

MM_ALL(bf16, Bf16, false)
MM_ALL(q4, Q4<false>, false)
MM_ALL(q4m, Q4<true>, true)
MM_ALL(q8, Q8<false>, false)
MM_ALL(q8h, Q8<true>, false)
