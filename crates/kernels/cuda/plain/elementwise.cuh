// Norms, activations and what moves rows. A block takes a row unless said otherwise.
//
// In a step of decoding these run between products: what matters is how soon each ends. So each lets the next kernel in at
// once (a product then asks for its weights meanwhile), reads what no kernel writes before it waits, and reads the rest
// together.
#pragma once

/// Fours of a row that a thread of a norm holds in registers: rows are up to 8 * 1024 wide.
constexpr int HELD = 2;

/// This thread's values of a row, four and four; those beyond it are 0.
struct Held {
    float4 v[HELD];

    __device__ __forceinline__ void read(const void* x, int kind, size_t first, int cols) {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            int c = (threadIdx.x + i * blockDim.x) * 4;
            v[i] = make_float4(0, 0, 0, 0);
            if (cols % 4 == 0) {
                if (c < cols) v[i] = load4(x, first + c, kind);
            } else {
                if (c < cols) v[i].x = load(x, first + c, kind);
                if (c + 1 < cols) v[i].y = load(x, first + c + 1, kind);
                if (c + 2 < cols) v[i].z = load(x, first + c + 2, kind);
                if (c + 3 < cols) v[i].w = load(x, first + c + 3, kind);
            }
        }
    }

    __device__ __forceinline__ void write(void* out, int kind, size_t first, int cols) const {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            int c = (threadIdx.x + i * blockDim.x) * 4;
            if (cols % 4 == 0) {
                if (c < cols) store4(out, first + c, kind, v[i]);
            } else {
                if (c < cols) store(out, first + c, kind, v[i].x);
                if (c + 1 < cols) store(out, first + c + 1, kind, v[i].y);
                if (c + 2 < cols) store(out, first + c + 2, kind, v[i].z);
                if (c + 3 < cols) store(out, first + c + 3, kind, v[i].w);
            }
        }
    }

    __device__ __forceinline__ float sum() const {
        float s = 0;
#pragma unroll
        for (int i = 0; i < HELD; i++) s += (v[i].x + v[i].y) + (v[i].z + v[i].w);
        return s;
    }

    __device__ __forceinline__ float squares() const {
        float s = 0;
#pragma unroll
        for (int i = 0; i < HELD; i++) s += (v[i].x * v[i].x + v[i].y * v[i].y) + (v[i].z * v[i].z + v[i].w * v[i].w);
        return s;
    }

    /// v * by * w + plus
    __device__ __forceinline__ void scale(float by, const Held& w) {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            v[i].x *= by * w.v[i].x;
            v[i].y *= by * w.v[i].y;
            v[i].z *= by * w.v[i].z;
            v[i].w *= by * w.v[i].w;
        }
    }

    __device__ __forceinline__ void plus(const Held& o) {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            v[i].x += o.v[i].x;
            v[i].y += o.v[i].y;
            v[i].z += o.v[i].z;
            v[i].w += o.v[i].w;
        }
    }
};

/// out = x / rms(x) * w
extern "C" __global__ void __launch_bounds__(1024) rms_norm(const void* x, int x_kind, const float* w, float eps, void* out, int out_kind, int cols) {
    __shared__ float scratch[32];
    launch_next();
    Held v, weight;
    weight.read(w, KIND_F32, 0, cols);
    wait_for_former();
    size_t first = size_t(blockIdx.x) * cols;
    v.read(x, x_kind, first, cols);
    v.scale(1.0f / sqrtf(block_sum(v.squares(), scratch) / cols + eps), weight);
    v.write(out, out_kind, first, cols);
}

/// x += y / rms(y) * post; with `next`, also out = x / rms(x) * next. y lies in up to four addends, one matrix after another.
extern "C" __global__ void __launch_bounds__(1024) residual_norm(const void* y, int y_kind, int parts, const float* post, const float* next, float eps, float* x,
                                         void* out, int out_kind, int cols) {
    __shared__ float scratch[2][32];
    launch_next();
    Held v, stream, after, then;
    after.read(post, KIND_F32, 0, cols);
    if (next != nullptr) then.read(next, KIND_F32, 0, cols);
    wait_for_former();
    size_t first = size_t(blockIdx.x) * cols;
    v.read(y, y_kind, first, cols);
    stream.read(x, KIND_F32, first, cols);
    if (parts > 1) {
        Held more[3];
#pragma unroll
        for (int p = 0; p < 3; p++)
            if (p + 1 < parts) more[p].read(y, y_kind, first + (p + 1) * size_t(gridDim.x) * cols, cols);
#pragma unroll
        for (int p = 0; p < 3; p++)
            if (p + 1 < parts) v.plus(more[p]);
    }
    v.scale(1.0f / sqrtf(block_sum(v.squares(), scratch[0]) / cols + eps), after);
    v.plus(stream);
    v.write(x, KIND_F32, first, cols);
    if (next == nullptr) return;
    v.scale(1.0f / sqrtf(block_sum(v.squares(), scratch[1]) / cols + eps), then);
    v.write(out, out_kind, first, cols);
}

/// out = (x - mean) / sqrt(var + eps) * w + b
extern "C" __global__ void __launch_bounds__(1024) layer_norm(const void* x, int x_kind, const float* w, const float* b, float eps, void* out,
                                      int out_kind, int cols) {
    __shared__ float scratch[2][32];
    launch_next();
    Held v, weight, bias;
    weight.read(w, KIND_F32, 0, cols);
    bias.read(b, KIND_F32, 0, cols);
    wait_for_former();
    size_t first = size_t(blockIdx.x) * cols;
    v.read(x, x_kind, first, cols);
    float mean = block_sum(v.sum(), scratch[0]) / cols;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        int c = (threadIdx.x + i * blockDim.x) * 4;
        v.v[i].x = c < cols ? v.v[i].x - mean : 0;
        v.v[i].y = c + 1 < cols ? v.v[i].y - mean : 0;
        v.v[i].z = c + 2 < cols ? v.v[i].z - mean : 0;
        v.v[i].w = c + 3 < cols ? v.v[i].w - mean : 0;
    }
    v.scale(1.0f / sqrtf(block_sum(v.squares(), scratch[1]) / cols + eps), weight);
    v.plus(bias);
    v.write(out, out_kind, first, cols);
}

/// out = gelu(gate) * up of rows of n columns of gate, then n of up. (columns, row): a thread takes four columns.
extern "C" __global__ void geglu(const void* gate_up, int kind, void* out, int out_kind, int n) {
    launch_next();
    wait_for_former();
    size_t from = size_t(blockIdx.y) * 2 * n, to = size_t(blockIdx.y) * n;
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (c >= n) return;
    if (n % 4 == 0) {
        float4 gate = load4(gate_up, from + c, kind), up = load4(gate_up, from + n + c, kind);
        store4(out, to + c, out_kind,
               make_float4(gelu_tanh(gate.x) * up.x, gelu_tanh(gate.y) * up.y, gelu_tanh(gate.z) * up.z, gelu_tanh(gate.w) * up.w));
        return;
    }
    for (int i = c; i < min(c + 4, n); i++)
        store(out, to + i, out_kind, gelu_tanh(load(gate_up, from + i, kind)) * load(gate_up, from + n + i, kind));
}

/// x += y. One thread four elements, then the others.
extern "C" __global__ void add(const void* y, int y_kind, void* x, int x_kind, long long total) {
    launch_next();
    wait_for_former();
    long long fours = total / 4, at = blockIdx.x * (long long)blockDim.x + threadIdx.x, step = (long long)gridDim.x * blockDim.x;
    for (long long i = at; i < fours; i += step) {
        float4 a = load4(x, i * 4, x_kind), b = load4(y, i * 4, y_kind);
        store4(x, i * 4, x_kind, make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w));
    }
    for (long long i = fours * 4 + at; i < total; i += step) store(x, i, x_kind, load(x, i, x_kind) + load(y, i, y_kind));
}

/// out = x as another kind. One thread an element: `out` may begin anywhere.
extern "C" __global__ void convert(const void* x, int x_kind, void* out, int out_kind, long long total) {
    launch_next();
    wait_for_former();
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < total; i += (long long)gridDim.x * blockDim.x)
        store(out, i, out_kind, load(x, i, x_kind));
}

struct Indices {
    uint32_t at[64];
};

/// out[first + i] = x[rows[i]]
extern "C" __global__ void gather(const void* x, int kind, Indices rows, void* out, int first, int cols) {
    launch_next();
    wait_for_former();
    size_t from = size_t(rows.at[blockIdx.x]) * cols, to = (size_t(first) + blockIdx.x) * cols;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) store(out, to + c, kind, load(x, from + c, kind));
}

/// The mean over squares of kernel * kernel; a block takes an output row.
extern "C" __global__ void avg_pool(const void* x, int x_kind, int side, int kernel, void* out, int out_kind, int cols) {
    launch_next();
    wait_for_former();
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
    launch_next();
    wait_for_former();
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
    launch_next();
    wait_for_former();
    uint32_t id = step.id(blockIdx.x);
    for (int c = threadIdx.x; c < w.k; c += blockDim.x) out[size_t(blockIdx.x) * w.k + c] = w.value(id, c) * scale;
}
