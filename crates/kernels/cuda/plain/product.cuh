// out = x * w^T, with what follows it.
#pragma once

/// What is done with each output.
struct Finish {
    const float* bias;  // null without
    int gelu;
    int kind;    // of out
    int first;   // column of out that the weight's first row goes to
    int stride;  // columns of out
    __device__ void put(void* out, int row, int n, float v) const {
        if (bias) v += bias[n];
        if (gelu) v = gelu_tanh(v);
        store(out, size_t(row) * stride + first + n, kind, v);
    }
};

__device__ __forceinline__ void eight_of_x(const void* x, size_t i, int kind, float v[8]) { eight_of(x, i, kind, v); }

constexpr int AT_ONCE = 8;

/// Few rows: a warp takes a row of w and meets eight rows of x (blockIdx.y) at once.
extern "C" __global__ void product_few(const void* x, int x_kind, Weight w, void* out, Finish finish, int m) {
    launch_next();
    wait_for_former();
    int lane = threadIdx.x % 32, n = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, first = blockIdx.y * AT_ONCE;
    if (n >= w.n) return;
    float acc[AT_ONCE] = {};
    if (w.k % 8 == 0) {
        for (int k = lane * 8; k < w.k; k += 256) {
            float a[8];
            w.eight(n, k, a);
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                if (first + i >= m) break;
                float b[8];
                eight_of_x(x, size_t(first + i) * w.k + k, x_kind, b);
#pragma unroll
                for (int e = 0; e < 8; e++) acc[i] += a[e] * b[e];
            }
        }
    } else {
        for (int k = lane; k < w.k; k += 32) {
            float a = w.value(n, k);
            for (int i = 0; i < AT_ONCE && first + i < m; i++) acc[i] += a * load(x, size_t(first + i) * w.k + k, x_kind);
        }
    }
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
        for (int o = 16; o > 0; o /= 2) acc[i] += __shfl_xor_sync(~0u, acc[i], o);
        if (lane == 0 && first + i < m) finish.put(out, first + i, n, acc[i]);
    }
}

/// Many rows: a block of 256 threads takes 64 rows of x and 64 of w, 16 k at a time; a thread 4 x 4 outputs.
extern "C" __global__ void product_many(const void* x, int x_kind, Weight w, void* out, Finish finish, int m) {
    __shared__ float xs[16][68], ws[16][68];
    launch_next();
    wait_for_former();
    int tid = threadIdx.x, row0 = blockIdx.y * 64, n0 = blockIdx.x * 64;
    int tx = tid % 16, ty = tid / 16;
    float acc[4][4] = {};
    for (int k0 = 0; k0 < w.k; k0 += 16) {
        // Threads 0..127 bring x, the others w: a row each, eight k.
        int r = tid % 64, part = tid / 64 % 2 * 8, k = k0 + part;
        bool of_w = tid >= 128;
        int row = (of_w ? n0 : row0) + r;
        float v[8] = {};
        if (row < (of_w ? w.n : m) && k < w.k) {
            if (w.k % 8 == 0) {
                if (of_w) w.eight(row, k, v);
                else eight_of_x(x, size_t(row) * w.k + k, x_kind, v);
            } else {
                for (int e = 0; e < 8 && k + e < w.k; e++)
                    v[e] = of_w ? w.value(row, k + e) : load(x, size_t(row) * w.k + k + e, x_kind);
            }
        }
        __syncthreads();
        for (int e = 0; e < 8; e++) (of_w ? ws : xs)[part + e][r] = v[e];
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < 16; kk++) {
            float a[4], b[4];
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = xs[kk][ty * 4 + i], b[i] = ws[kk][tx + 16 * i];
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) acc[i][j] += a[i] * b[j];
        }
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            int row = row0 + ty * 4 + i, n = n0 + tx + 16 * j;
            if (row < m && n < w.n) finish.put(out, row, n, acc[i][j]);
        }
}
