// Norms, activations and what moves rows. A block takes a row unless said otherwise.
#pragma once

/// Values of a row that a thread of a norm holds in registers: rows are up to 1024 times as wide.
constexpr int HELD = 16;

/// This thread's values of a row; those beyond it are 0.
__device__ __forceinline__ void hold(float v[HELD], const void* x, int kind, size_t first, int cols) {
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        int c = threadIdx.x + i * blockDim.x;
        v[i] = c < cols ? load(x, first + c, kind) : 0;
    }
}

__device__ __forceinline__ float squares(const float v[HELD], float* scratch) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < HELD; i++) sum += v[i] * v[i];
    return block_sum(sum, scratch);
}

/// out = x / rms(x) * w
extern "C" __global__ void rms_norm(const void* x, int x_kind, const float* w, float eps, void* out, int out_kind, int cols) {
    __shared__ float scratch[33];
    wait_for_former();
    launch_next();
    size_t first = size_t(blockIdx.x) * cols;
    float v[HELD];
    hold(v, x, x_kind, first, cols);
    float inverse = 1.0f / sqrtf(squares(v, scratch) / cols + eps);
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        int c = threadIdx.x + i * blockDim.x;
        if (c < cols) store(out, first + c, out_kind, v[i] * inverse * w[c]);
    }
}

/// x += y / rms(y) * post; with `next`, also out = x / rms(x) * next.
extern "C" __global__ void residual_norm(const void* y, int y_kind, const float* post, const float* next, float eps, float* x,
                                         void* out, int out_kind, int cols) {
    __shared__ float scratch[33];
    wait_for_former();
    launch_next();
    size_t first = size_t(blockIdx.x) * cols;
    float v[HELD];
    hold(v, y, y_kind, first, cols);
    float inverse = 1.0f / sqrtf(squares(v, scratch) / cols + eps);
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        int c = threadIdx.x + i * blockDim.x;
        if (c < cols) {
            v[i] = x[first + c] + v[i] * inverse * post[c];
            x[first + c] = v[i];
        }
    }
    if (next == nullptr) return;
    inverse = 1.0f / sqrtf(squares(v, scratch) / cols + eps);
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        int c = threadIdx.x + i * blockDim.x;
        if (c < cols) store(out, first + c, out_kind, v[i] * inverse * next[c]);
    }
}

/// out = (x - mean) / sqrt(var + eps) * w + b
extern "C" __global__ void layer_norm(const void* x, int x_kind, const float* w, const float* b, float eps, void* out,
                                      int out_kind, int cols) {
    __shared__ float scratch[33];
    wait_for_former();
    launch_next();
    size_t first = size_t(blockIdx.x) * cols;
    float v[HELD];
    hold(v, x, x_kind, first, cols);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < HELD; i++) sum += v[i];
    float mean = block_sum(sum, scratch) / cols;
#pragma unroll
    for (int i = 0; i < HELD; i++) v[i] = threadIdx.x + i * blockDim.x < cols ? v[i] - mean : 0;
    float inverse = 1.0f / sqrtf(squares(v, scratch) / cols + eps);
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        int c = threadIdx.x + i * blockDim.x;
        if (c < cols) store(out, first + c, out_kind, v[i] * inverse * w[c] + b[c]);
    }
}

/// out = gelu(gate) * up of rows of n columns of gate, then n of up. One thread an element.
extern "C" __global__ void geglu(const void* gate_up, int kind, void* out, int out_kind, int n, long long total) {
    wait_for_former();
    launch_next();
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < total; i += (long long)gridDim.x * blockDim.x) {
        size_t row = i / n, c = i % n;
        float gate = load(gate_up, row * 2 * n + c, kind), up = load(gate_up, row * 2 * n + n + c, kind);
        store(out, i, out_kind, gelu_tanh(gate) * up);
    }
}

/// x += y. One thread an element.
extern "C" __global__ void add(const void* y, int y_kind, void* x, int x_kind, long long total) {
    wait_for_former();
    launch_next();
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < total; i += (long long)gridDim.x * blockDim.x)
        store(x, i, x_kind, load(x, i, x_kind) + load(y, i, y_kind));
}

/// out = x as another kind. One thread an element.
extern "C" __global__ void convert(const void* x, int x_kind, void* out, int out_kind, long long total) {
    wait_for_former();
    launch_next();
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < total; i += (long long)gridDim.x * blockDim.x)
        store(out, i, out_kind, load(x, i, x_kind));
}

struct Indices {
    uint32_t at[64];
};

/// out[first + i] = x[rows[i]]
extern "C" __global__ void gather(const void* x, int kind, Indices rows, void* out, int first, int cols) {
    wait_for_former();
    launch_next();
    size_t from = size_t(rows.at[blockIdx.x]) * cols, to = (size_t(first) + blockIdx.x) * cols;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) store(out, to + c, kind, load(x, from + c, kind));
}

/// The mean over squares of kernel * kernel; a block takes an output row.
extern "C" __global__ void avg_pool(const void* x, int x_kind, int side, int kernel, void* out, int out_kind, int cols) {
    wait_for_former();
    launch_next();
    int small = side / kernel, py = blockIdx.x / small, px = blockIdx.x % small;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) {
        float sum = 0;
        for (int i = 0; i < kernel * kernel; i++) {
            size_t row = size_t(py * kernel + i / kernel) * side + px * kernel + i % kernel;
            sum += load(x, row * cols + c, x_kind);
        }
        store(out, size_t(blockIdx.x) * cols + c, out_kind, sum / (kernel * kernel));
    }
}

/// Cosines, then sines, of position * inv_freq; out is f32.
extern "C" __global__ void rope_table(const float* inv_freq, int half, Step step, float* out) {
    wait_for_former();
    launch_next();
    float position = float(step.position(blockIdx.x));
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        float sine, cosine;
        sincosf(position * inv_freq[i], &sine, &cosine);
        out[size_t(blockIdx.x) * 2 * half + i] = cosine;
        out[size_t(blockIdx.x) * 2 * half + half + i] = sine;
    }
}

/// out = w[id] * scale
extern "C" __global__ void embed(Weight w, Step step, float scale, float* out) {
    wait_for_former();
    launch_next();
    uint32_t id = step.id(blockIdx.x);
    for (int c = threadIdx.x; c < w.k; c += blockDim.x) out[size_t(blockIdx.x) * w.k + c] = w.value(id, c) * scale;
}
