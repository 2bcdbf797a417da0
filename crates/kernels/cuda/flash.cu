// Attention of many rows over the paged cache, with the window and the image spans in the mask (flash attention).
//
// A block takes 64 rows of one sequence and one query head; four warps of 16 rows each walk over the keys in tiles,
// keeping a running maximum and sum for each row. Scores and sums are f32, softmax weights are rounded to bf16 for
// their product. Keys and values of the next tile are copied into shared memory while this one is multiplied.

#include "common.cuh"

namespace {

constexpr int PAGE = 32;
constexpr int ROWS = 64;
constexpr int WARPS = 4;

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
__device__ __forceinline__ void copy16(uint32_t to, const void* from, bool there) {
    int bytes = there ? 16 : 0;  // the rest of the 16 is filled with zeros
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}

/// DIM elements of a head as stored, TILE keys at once.
template <int DIM, int TILE>
struct Shape {
    static constexpr int PADDED = (DIM + 15) / 16 * 16;       // elements a product sees
    static constexpr int STRIDE = (PADDED + 8) * 2;           // bytes of a row in shared memory: no bank conflicts
    static constexpr int BUFFER = TILE * STRIDE;
    static constexpr int SHARED = ROWS * STRIDE + 4 * BUFFER;
};

template <int DIM, int TILE>
__device__ __forceinline__ void flash(const bf16* q, const bf16* keys, const bf16* values, const int* positions,
                                      const int* ends, const int* sequence_of, const int* tables, int table_stride,
                                      const int2* tiles, int heads, int kv_heads, int window, float scale, bf16* out) {
    using S = Shape<DIM, TILE>;
    constexpr int STEPS = S::PADDED / 16;
    constexpr bool HELD = DIM <= 128;  // the queries fit into registers
    extern __shared__ __align__(128) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int2 tile = tiles[gridDim.x - 1 - blockIdx.x];  // the longest first
    const int head = blockIdx.y, kv_head = head / (heads / kv_heads), first = tile.x, count = tile.y;
    const uint32_t base = uint32_t(__cvta_generic_to_shared(shared)), key_base = base + ROWS * S::STRIDE;
    constexpr int PIECES = S::PADDED / 8, REAL = DIM / 8;
    for (int i = threadIdx.x; i < ROWS * PIECES; i += WARPS * 32) {
        int row = i / PIECES, piece = i % PIECES;
        const bf16* from = q + (size_t(first + min(row, count - 1)) * heads + head) * DIM + min(piece, REAL - 1) * 8;
        copy16(base + row * S::STRIDE + piece * 16, from, row < count && piece < REAL);
    }
    // What the block as a whole sees: positions and ends rise within a sequence.
    const int begin_key = window > 0 ? max(0, positions[first] + 1 - window) : 0;
    int end_key = ends[first + count - 1];
    const int* table = tables + size_t(sequence_of[first]) * table_stride;
    const int from_tile = begin_key / TILE, to_tile = (end_key + TILE - 1) / TILE;
    auto load = [&](int at, int buffer) {
        const uint32_t k_to = key_base + buffer * 2 * S::BUFFER, v_to = k_to + S::BUFFER;
        for (int i = threadIdx.x; i < TILE * PIECES; i += WARPS * 32) {
            int row = i / PIECES, piece = i % PIECES, key = at * TILE + row;
            bool there = key < end_key && key >= begin_key && piece < REAL;
            int safe = min(max(key, begin_key), end_key - 1);
            size_t offset = ((size_t(table[safe / PAGE]) * kv_heads + kv_head) * PAGE + safe % PAGE) * DIM + min(piece, REAL - 1) * 8;
            copy16(k_to + row * S::STRIDE + piece * 16, keys + offset, there);
            copy16(v_to + row * S::STRIDE + piece * 16, values + offset, there);
        }
        asm volatile("cp.async.commit_group;");
    };
    load(from_tile, 0);
    int low[2], high[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = min(warp * 16 + g + 8 * r, count - 1);
        low[r] = window > 0 ? max(0, positions[first + row] + 1 - window) : 0;
        high[r] = ends[first + row];
    }
    const uint32_t q_at = base + (warp * 16 + lane % 16) * S::STRIDE + (lane / 16) * 16;
    uint32_t held[HELD ? STEPS : 1][4];
    float acc[2 * STEPS][4] = {};
    float most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    const float factor = scale * 1.4426950408889634f;
    for (int at = from_tile; at < to_tile; at++) {
        const int buffer = (at - from_tile) % 2;
        if (at + 1 < to_tile) {
            load(at + 1, buffer ^ 1);
            asm volatile("cp.async.wait_group 1;");
        } else {
            asm volatile("cp.async.wait_group 0;");
        }
        __syncthreads();
        if (HELD && at == from_tile) {
#pragma unroll
            for (int s = 0; s < STEPS; s++) matrices(held[HELD ? s : 0], q_at + s * 32);
        }
        const uint32_t k_from = key_base + buffer * 2 * S::BUFFER, v_from = k_from + S::BUFFER;
        float score[TILE / 8][4] = {};
        const uint32_t k_at = k_from + (lane % 8 + (lane / 16) * 8) * S::STRIDE + ((lane / 8) % 2) * 16;
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            uint32_t now[4];
            if (!HELD) matrices(now, q_at + s * 32);
            const uint32_t* a = HELD ? held[HELD ? s : 0] : now;
#pragma unroll
            for (int n = 0; n < TILE / 16; n++) {
                uint32_t b[4];
                matrices(b, k_at + n * 16 * S::STRIDE + s * 32);
                mma(score[2 * n], a, b[0], b[1]);
                mma(score[2 * n + 1], a, b[2], b[3]);
            }
        }
        const int key0 = at * TILE + 2 * t;
        float top[2] = {most[0], most[1]};
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int key = key0 + 8 * n + e % 2, r = e / 2;
                float value = key >= low[r] && key < high[r] ? score[n][e] * factor : -INFINITY;
                score[n][e] = value;
                top[r] = fmaxf(top[r], value);
            }
        float shrink[2], offset[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
            top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
            offset[r] = top[r] == -INFINITY ? 0 : top[r];  // a tile that the row doesn't see
            shrink[r] = exp2f(most[r] - offset[r]);
            most[r] = top[r];
            total[r] *= shrink[r];
        }
        uint32_t p[TILE / 16][4];
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
            float e0 = exp2f(score[n][0] - offset[0]), e1 = exp2f(score[n][1] - offset[0]);
            float e2 = exp2f(score[n][2] - offset[1]), e3 = exp2f(score[n][3] - offset[1]);
            total[0] += e0 + e1;
            total[1] += e2 + e3;
            p[n / 2][2 * (n % 2)] = pack_bf16(e0, e1);
            p[n / 2][2 * (n % 2) + 1] = pack_bf16(e2, e3);
        }
        if (shrink[0] != 1.0f || shrink[1] != 1.0f) {
#pragma unroll
            for (int d = 0; d < 2 * STEPS; d++) {
                acc[d][0] *= shrink[0], acc[d][1] *= shrink[0], acc[d][2] *= shrink[1], acc[d][3] *= shrink[1];
            }
        }
        const uint32_t v_at = v_from + (lane % 16) * S::STRIDE + (lane / 16) * 16;
#pragma unroll
        for (int n = 0; n < TILE / 16; n++)
#pragma unroll
            for (int s = 0; s < STEPS; s++) {
                uint32_t b[4];
                matrices_transposed(b, v_at + n * 16 * S::STRIDE + s * 32);
                mma(acc[2 * s], p[n], b[0], b[1]);
                mma(acc[2 * s + 1], p[n], b[2], b[3]);
            }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
        total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
        int row = warp * 16 + g + 8 * r;
        if (row >= count) continue;
        float inverse = 1.0f / total[r];
        bf16* to = out + (size_t(first + row) * heads + head) * DIM + 2 * t;
#pragma unroll
        for (int d = 0; d < DIM / 8; d++)
            *reinterpret_cast<uint32_t*>(to + 8 * d) = pack_bf16(acc[d][2 * r] * inverse, acc[d][2 * r + 1] * inverse);
    }
}

}  // namespace

// q, out: bf16 [rows][heads][DIM]; keys, values: one layer's, bf16 [block][kv_head][32][DIM]; tiles: (first row, rows <= 64)
// of one sequence each. Launch: grid (tiles, heads), block 128, dynamic shared memory flash_shared_<DIM>.
#define FLASH(DIM, TILE, BLOCKS)                                                                                         \
    extern "C" __global__ void __launch_bounds__(128, BLOCKS) flash_##DIM(                                                \
        const bf16* q, const bf16* keys, const bf16* values, const int* positions, const int* ends,                      \
        const int* sequence_of, const int* tables, int table_stride, const int2* tiles, int heads, int kv_heads,         \
        int window, float scale, bf16* out) {                                                                            \
        flash<DIM, TILE>(q, keys, values, positions, ends, sequence_of, tables, table_stride, tiles, heads, kv_heads,    \
                         window, scale, out);                                                                            \
    }                                                                                                                    \
    static_assert(Shape<DIM, TILE>::SHARED == FLASH_SHARED_##DIM, "the launch asks for this much");

#define FLASH_SHARED_256 101376
#define FLASH_SHARED_128 87040
#define FLASH_SHARED_72 56320
#define FLASH_SHARED_64 46080
FLASH(256, 32, 2)
FLASH(128, 64, 2)
FLASH(72, 64, 3)
FLASH(64, 64, 3)
