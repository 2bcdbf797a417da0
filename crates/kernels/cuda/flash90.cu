// Attention of many rows over the paged cache on Hopper: flash.cu's way, with the warpgroup's products.
//
// A block takes 128 rows of one sequence and one query head; each of its two warpgroups takes 64 rows, and while one
// computes its softmax, the other's products run. In shared memory a head is cut into columns of 64 elements (rows of 128
// bytes) and, for SigLIP's 72, one of 16 more; their 16-byte pieces are exchanged as the matrix unit expects.

#include "common.cuh"
#include "wgmma.cuh"

namespace {

constexpr int PAGE = 32;
constexpr int ROWS = 128;
constexpr int TILE = 64;  // two blocks of the cache
constexpr int THREADS = 256;

template <int DIM>
struct Shape {
    static constexpr int WIDE = DIM / 64;                        // columns of 64 elements
    static constexpr bool NARROW = DIM % 64 != 0;                // and one of 16
    static constexpr int ROW = WIDE * 128 + (NARROW ? 32 : 0);   // bytes of a row
    static constexpr int BUFFER = TILE * ROW;
    static constexpr int SHARED = ROWS * ROW + 4 * BUFFER + 1024;
};

/// Where 16 bytes of a row lie in `rows` rows of columns.
template <int DIM>
__device__ __forceinline__ uint32_t place(int row, int piece, int rows) {
    constexpr int WIDE = Shape<DIM>::WIDE;
    if (piece < WIDE * 8) return (piece / 8) * rows * 128 + row * 128 + ((piece % 8) ^ (row % 8)) * 16;
    return WIDE * rows * 128 + row * 32 + ((piece - WIDE * 8) ^ ((row / 4) % 2)) * 16;
}

__device__ __forceinline__ void copy16(uint32_t to, const void* from, bool there) {
    int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}

/// 2^x, subnormal results as 0.
__device__ __forceinline__ float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

template <int DIM>
__device__ __forceinline__ void flash(const bf16* q, const bf16* keys, const bf16* values, const int* positions,
                                      const int* ends, const int* sequence_of, const int* tables, int table_stride,
                                      const int2* tiles, int heads, int kv_heads, int window, float scale, bf16* out) {
    using S = Shape<DIM>;
    extern __shared__ __align__(1024) char shared[];
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int2 tile = tiles[gridDim.x - 1 - blockIdx.x];
    const int head = blockIdx.y, kv_head = head / (heads / kv_heads), first = tile.x, count = tile.y;
    const uint32_t base = (uint32_t(__cvta_generic_to_shared(shared)) + 1023) & ~1023u, key_base = base + ROWS * S::ROW;
    constexpr int PIECES = S::ROW / 16, REAL = DIM / 8;
    for (int i = threadIdx.x; i < ROWS * PIECES; i += THREADS) {
        int row = i / PIECES, piece = i % PIECES;
        const bf16* from = q + (size_t(first + min(row, count - 1)) * heads + head) * DIM + min(piece, REAL - 1) * 8;
        // Each warpgroup's rows are a matrix of their own.
        copy16(base + (row / 64) * 64 * S::ROW + place<DIM>(row % 64, piece, 64), from, row < count && piece < REAL);
    }
    const int begin_key = window > 0 ? max(0, positions[first] + 1 - window) : 0, end_key = ends[first + count - 1];
    const int* table = tables + size_t(sequence_of[first]) * table_stride;
    const int from_tile = begin_key / TILE, to_tile = (end_key + TILE - 1) / TILE;
    auto load = [&](int at, int buffer) {
        const uint32_t k_to = key_base + buffer * 2 * S::BUFFER;
        // A tile lies in two blocks of the cache; the first may have left the window, the second not be there yet.
        const int page = at * (TILE / PAGE), least = begin_key / PAGE, most = (end_key - 1) / PAGE;
        const size_t top = (size_t(table[max(page, least)]) * kv_heads + kv_head) * PAGE * DIM;
        const size_t bottom = (size_t(table[min(page + 1, most)]) * kv_heads + kv_head) * PAGE * DIM;
#pragma unroll
        for (int i = threadIdx.x, n = 0; n < (TILE * PIECES + THREADS - 1) / THREADS; i += THREADS, n++) {
            if (TILE * PIECES % THREADS != 0 && i >= TILE * PIECES) break;
            const int row = i / PIECES, piece = i % PIECES, key = at * TILE + row;
            const bool there = key < end_key && key >= begin_key && piece < REAL;
            const size_t offset = (row < PAGE ? top : bottom) + (row % PAGE) * DIM + min(piece, REAL - 1) * 8;
            const uint32_t to = k_to + place<DIM>(row, piece, TILE);
            copy16(to, keys + offset, there);
            copy16(to + S::BUFFER, values + offset, there);
        }
        asm volatile("cp.async.commit_group;");
    };
    load(from_tile, 0);
    int low[2], high[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = min(group * 64 + warp * 16 + g + 8 * r, count - 1);
        low[r] = window > 0 ? max(0, positions[first + row] + 1 - window) : 0;
        high[r] = ends[first + row];
    }
    // What this warpgroup's rows see: some of them, and all of them.
    const int group_first = min(group * 64, count - 1), group_last = min(group * 64 + 63, count - 1);
    const int some_low = window > 0 ? max(0, positions[first + group_first] + 1 - window) : 0, some_high = ends[first + group_last];
    const int all_low = window > 0 ? max(0, positions[first + group_last] + 1 - window) : 0, all_high = ends[first + group_first];
    const uint32_t q_at = base + group * 64 * S::ROW;
    float acc[DIM == 72 ? 10 : DIM / 8][4] = {};
    float most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    const float factor = scale * 1.4426950408889634f;
    for (int at = from_tile; at < to_tile; at++) {
        const int buffer = (at - from_tile) % 2;
        if (at + 1 < to_tile) {
            load(at + 1, buffer ^ 1);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        if (at * TILE < some_high && (at + 1) * TILE > some_low) {
            const uint32_t k_from = key_base + buffer * 2 * S::BUFFER, v_from = k_from + S::BUFFER;
            float score[8][4];
            products_begin();
#pragma unroll
            for (int c = 0; c < S::WIDE; c++)
#pragma unroll
                for (int s = 0; s < 4; s++)
                    product_ss(score, operand(q_at + c * 64 * 128 + s * 32, SWIZZLE_128, 16, 1024),
                               operand(k_from + c * TILE * 128 + s * 32, SWIZZLE_128, 16, 1024), c + s);
            if (S::NARROW)
                product_ss(score, operand(q_at + S::WIDE * 64 * 128, SWIZZLE_32, 16, 256),
                           operand(k_from + S::WIDE * TILE * 128, SWIZZLE_32, 16, 256), 1);
            products_end();
            if (at * TILE < all_low || (at + 1) * TILE > all_high) {
                const int key0 = at * TILE + 2 * t;
#pragma unroll
                for (int n = 0; n < 8; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        int key = key0 + 8 * n + e % 2, r = e / 2;
                        if (key < low[r] || key >= high[r]) score[n][e] = -INFINITY;
                    }
            }
            float shrink[2], offset[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float top = score[0][2 * r];
#pragma unroll
                for (int n = 0; n < 8; n++) top = fmaxf(top, fmaxf(score[n][2 * r], score[n][2 * r + 1]));
                top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
                top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
                top = fmaxf(most[r], top * factor);
                offset[r] = top == -INFINITY ? 0 : top;
                shrink[r] = power_of_2(most[r] - offset[r]);
                most[r] = top;
                total[r] *= shrink[r];
            }
            uint32_t p[4][4];
#pragma unroll
            for (int n = 0; n < 8; n++) {
                float e0 = power_of_2(fmaf(score[n][0], factor, -offset[0])), e1 = power_of_2(fmaf(score[n][1], factor, -offset[0]));
                float e2 = power_of_2(fmaf(score[n][2], factor, -offset[1])), e3 = power_of_2(fmaf(score[n][3], factor, -offset[1]));
                total[0] += e0 + e1;
                total[1] += e2 + e3;
                p[n / 2][2 * (n % 2)] = pack_bf16(e0, e1);
                p[n / 2][2 * (n % 2) + 1] = pack_bf16(e2, e3);
            }
            if (__any_sync(0xffffffffu, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
                for (int d = 0; d < sizeof(acc) / sizeof(acc[0]); d++) {
                    acc[d][0] *= shrink[0], acc[d][1] *= shrink[0], acc[d][2] *= shrink[1], acc[d][3] *= shrink[1];
                }
            }
            products_begin();
#pragma unroll
            for (int n = 0; n < 4; n++) {
#pragma unroll
                for (int c = 0; c < S::WIDE; c++)
                    product_rs(acc + 8 * c, p[n], operand(v_from + c * TILE * 128 + n * 16 * 128, SWIZZLE_128, TILE * 128, 1024));
                if (S::NARROW)
                    product_rs16(acc + 8 * S::WIDE, p[n], operand(v_from + S::WIDE * TILE * 128 + n * 16 * 32, SWIZZLE_32, 512, 256));
            }
            products_end();
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
        total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
        int row = group * 64 + warp * 16 + g + 8 * r;
        if (row >= count) continue;
        float inverse = 1.0f / total[r];
        bf16* to = out + (size_t(first + row) * heads + head) * DIM + 2 * t;
#pragma unroll
        for (int d = 0; d < DIM / 8; d++)
            *reinterpret_cast<uint32_t*>(to + 8 * d) = pack_bf16(acc[d][2 * r] * inverse, acc[d][2 * r + 1] * inverse);
    }
}

}  // namespace

// As flash.cu's kernels, with tiles of up to 128 rows and blocks of 256 threads.
#define FLASH(DIM, BLOCKS)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256, BLOCKS) flash90_##DIM(                                              \
        const bf16* q, const bf16* keys, const bf16* values, const int* positions, const int* ends,                      \
        const int* sequence_of, const int* tables, int table_stride, const int2* tiles, int heads, int kv_heads,         \
        int window, float scale, bf16* out) {                                                                            \
        flash<DIM>(q, keys, values, positions, ends, sequence_of, tables, table_stride, tiles, heads, kv_heads, window,  \
                   scale, out);                                                                                          \
    }                                                                                                                    \
    static_assert(Shape<DIM>::SHARED == FLASH90_SHARED_##DIM, "the launch asks for this much");

#define FLASH90_SHARED_256 197632
#define FLASH90_SHARED_128 99328
#define FLASH90_SHARED_72 62464
#define FLASH90_SHARED_64 50176
FLASH(256, 1)
FLASH(128, 2)
FLASH(72, 2)
FLASH(64, 2)
