// Products of a step's rows where x can be held in registers (Hopper): out = x * w^T, as mm.cu.
//
// Each block needs all of x (of its part of k), however few rows of w it takes: read with every tile, it is most of what comes from the
// second-level cache. Here a warp keeps its share of x in registers, chunks c of 64 k with c mod 8 = its number, up to five of them, and
// tiles of w stream past. Where k is longer than 40 chunks, the block goes through its tiles again for the next chunks, and adds.
// Where a product has few rows of w and long k, the grid's third dimension shares k, and the sums stay apart: who reads them adds them in order.
// A row of x has the same bits whatever stands beside it.

#include "weights.cuh"

namespace {

constexpr int EACH = 5;           // chunks of x that a warp holds
constexpr int MOST = EACH * WARPS;  // and a block

enum Finish { F32, GEGLU };

/// Tiles of w, of EACH chunks, that are on their way to a warp.
template <class W, int NT>
struct Ring {
    static constexpr int DEPTH = W::BYTES >= 2048 ? 2 : W::BYTES >= 1280 ? 3 : 4;
    static constexpr int TILE = EACH * W::BYTES;
    static constexpr int SUMS = NT * 4 * 32;  // floats of a warp
};

/// A lane's part of eight rows of x: zeros beyond them.
template <class W>
__device__ __forceinline__ Operand operand_of(const bf16* x, int token, int k, int chunk, int t, bool there) {
    const char* from = reinterpret_cast<const char*>(x + size_t(token) * k + chunk * CHUNK);
    Operand o;
#pragma unroll
    for (int j = 0; j < 2; j++) {
        o.group[j] = make_uint4(0, 0, 0, 0);
        if (!there) continue;
        if (W::HALVES) {
            const uint2 a = load_cg8(from + 64 * j + 8 * t), b = load_cg8(from + 64 * j + 32 + 8 * t);
            o.group[j] = make_uint4(a.x, a.y, b.x, b.y);
        } else {
            o.group[j] = load_cg16(from + 64 * j + 16 * t);
        }
    }
    return o;
}

/// WHOLE: all warps hold EACH chunks, and there is one pass.
template <class W, Finish FINISH, int NT, bool WHOLE>
__device__ __forceinline__ void pass_through(const void* w, const void* scales, const bf16* x, void* out, float* room, int m, int n, int k) {
    using R = Ring<W, NT>;
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    char* ring = shared + warp * R::DEPTH * R::TILE;
    float* const sums_of = reinterpret_cast<float*>(shared + WARPS * R::DEPTH * R::TILE);
    // With GEGLU a tile of gate, then that of up.
    constexpr int PAIR = FINISH == GEGLU ? 2 : 1;
    const int token0 = blockIdx.y * NT * 8, units = n / 16 / PAIR;
    const int mine = PAIR * ((units - int(blockIdx.x) + int(gridDim.x) - 1) / int(gridDim.x));
    auto tile_of = [&](int i) { return int(blockIdx.x) + i / PAIR * int(gridDim.x) + i % PAIR * units; };
    // Of k: this block's part, and its share in each pass.
    const int all = k / CHUNK, part = blockIdx.z, parts = gridDim.z;
    const int begin = all * part / parts, count = WHOLE ? MOST : all * (part + 1) / parts - begin;
    const int passes = WHOLE ? 1 : (count + MOST - 1) / MOST;
    auto pass_at = [&](int pass) { return begin + count * pass / passes; };
    int asked = 0, asked_tile = 0, asked_pass = 0, to = 0;
    auto take = [&] {
        if (asked < mine * passes) {
            const typename W::Source source = W::source(w, scales, nullptr, tile_of(asked_tile), n, k, g, t);
            const int first = pass_at(asked_pass) + warp, behind = pass_at(asked_pass + 1);
#pragma unroll
            for (int c = 0; c < EACH; c++)
                if (WHOLE || first + c * WARPS < behind) W::copy(ring + to * R::TILE + c * W::BYTES, source, first + c * WARPS, lane);
        }
        asm volatile("cp.async.commit_group;");
        asked++;
        if (++asked_tile == mine) asked_tile = 0, asked_pass++;
        to = to + 1 == R::DEPTH ? 0 : to + 1;
    };
#pragma unroll 1
    for (int i = 0; i < R::DEPTH - 1; i++) take();
    wait_for_former();
    launch_next();

    constexpr int RESULTS = NT * 4 * 32, OWN = (RESULTS + WARPS * 32 - 1) / (WARPS * 32);
    float* const held = FINISH == GEGLU ? room : static_cast<float*>(out) + size_t(part) * m * n;
    int from = 0, turn = 0;
#pragma unroll 1
    for (int pass = 0; pass < passes; pass++) {
        const int first = pass_at(pass) + warp, behind = pass_at(pass + 1);
        const bool last = pass + 1 == passes;
        Operand rows[EACH][NT];
#pragma unroll
        for (int c = 0; c < EACH; c++)
#pragma unroll
            for (int i = 0; i < NT; i++) {
                const int token = token0 + 8 * i + g, chunk = first + c * WARPS;
                rows[c][i] = operand_of<W>(x, token, k, chunk, t, token < m && (WHOLE || chunk < behind));
            }
        float gate[OWN];
#pragma unroll 1
        for (int i = 0; i < mine; i++) {
            // An element of the tile's results: tile of tokens j, element e of lane l. Neighbouring threads take neighbouring rows of w.
            auto place = [&](int o, int& token, int& row, int& at) {
                const int nth = threadIdx.x + o * WARPS * 32, half = nth / 8 % 2, odd = nth / 64 % 2, l = nth % 8 * 4 + nth / 16 % 4, j = nth / 128;
                token = token0 + 8 * j + 2 * (l % 4) + odd, row = tile_of(i) * 16 + nth % 8 + 8 * half;
                at = (j * 4 + 2 * half + odd) * 32 + l;
                return nth < RESULTS && token < m;
            };
            float former[OWN], scale[OWN];
            if (W::ROWS) {
#pragma unroll
                for (int o = 0; o < OWN; o++) {
                    int token, row, at;
                    scale[o] = place(o, token, row, at) ? scale_of<W>(scales, row) : 0;
                }
            }
            if (!WHOLE && pass > 0) {
#pragma unroll
                for (int o = 0; o < OWN; o++) {
                    int token, row, at;
                    former[o] = place(o, token, row, at) ? held[size_t(token) * n + row] : 0;
                }
            }
            asm volatile("cp.async.wait_group %0;" ::"n"(R::DEPTH - 2) : "memory");
            if (W::HALVES) __syncwarp();
            take();
            float acc[NT][4] = {};
#pragma unroll
            for (int c = 0; c < EACH; c++)
                if (WHOLE || first + c * WARPS < behind) W::template multiply<NT>(acc, W::read(ring + from * R::TILE + c * W::BYTES, lane), rows[c], nullptr);
            if (W::HALVES) __syncwarp();
            from = from + 1 == R::DEPTH ? 0 : from + 1;
            // Two buffers take turns: who writes to one again has met all who read it.
            float* const sums = sums_of + turn * WARPS * R::SUMS;
            turn ^= 1;
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) sums[warp * R::SUMS + (j * 4 + e) * 32 + lane] = acc[j][e];
            __syncthreads();
#pragma unroll
            for (int o = 0; o < OWN; o++) {
                int token, row, at;
                if (!place(o, token, row, at)) continue;
                float sum = 0;
#pragma unroll
                for (int of = 0; of < WARPS; of++) sum += sums[of * R::SUMS + at];
                if (W::ROWS) sum *= scale[o];
                if (!WHOLE && pass > 0) sum += former[o];
                if (FINISH == F32 || !last) {
                    held[size_t(token) * n + row] = sum;
                } else if (i % 2 == 0) {
                    gate[o] = sum;
                } else {
                    static_cast<bf16*>(out)[size_t(token) * (n / 2) + row - n / 2] = __float2bfloat16(gelu_tanh(gate[o]) * sum);
                }
            }
        }
    }
}

template <class W, Finish FINISH, int NT>
__device__ __forceinline__ void product(const void* w, const void* scales, const bf16* x, void* out, float* room, int m, int n, int k) {
    if (k == MOST * CHUNK * int(gridDim.z)) pass_through<W, FINISH, NT, true>(w, scales, x, out, room, m, n, k);
    else pass_through<W, FINISH, NT, false>(w, scales, x, out, room, m, n, k);
}

}  // namespace

// Launch: block 256, grid (up to n / 16 (geglu: n / 32), ceil(m / (8 * nt)), parts of k), n a multiple of 16 (geglu: 32), k of 64; out f32
// [parts][m][n], or (geglu) bf16 [m][n / 2] with one part and room f32 [m][n] where k is more than 2560. Dynamic shared memory: for each
// warp its ring, and twice its sums.
#define MANY(NAME, W, NT)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                                \
        many90_##NAME##_f32_##NT(const void* w, const void* scales, const bf16* x, void* out, float* room, int m,       \
                                 int n, int k) {                                                                        \
        product<W, F32, NT>(w, scales, x, out, room, m, n, k);                                                          \
    }                                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                                \
        many90_##NAME##_geglu_##NT(const void* w, const void* scales, const bf16* x, void* out, float* room, int m,     \
                                   int n, int k) {                                                                      \
        product<W, GEGLU, NT>(w, scales, x, out, room, m, n, k);                                                        \
    }
MANY(bf16, Bf16, 1)
MANY(bf16, Bf16, 2)
MANY(bf16, Bf16, 4)
MANY(q4, Q4<false>, 1)
MANY(q4, Q4<false>, 2)
MANY(q4, Q4<false>, 4)
MANY(q8, Q8<false>, 1)
MANY(q8, Q8<false>, 2)
MANY(q8, Q8<false>, 4)
MANY(f8, F8, 1)
MANY(f8, F8, 2)
MANY(f8, F8, 4)
