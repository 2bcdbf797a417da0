// Weights: how they are held, and how they come from the blocks of a file.
#pragma once

enum WeightKind { WEIGHT_F32 = 0, WEIGHT_BF16 = 1, WEIGHT_Q4 = 2, WEIGHT_Q8 = 3, WEIGHT_F8 = 4 };

/// A matrix [n][k]: row after row, or quantized in tiles of 16 rows and 64 k (weight.rs says how they are laid out).
struct Weight {
    void* data;
    void* scales;
    float* mins;  // null without
    int n, k;
    int kind;
    int scale_f32;  // or f16
    int group;      // elements that share a scale: 16 or 32 (8-bit floats have one f32 for each row)

    __device__ size_t tile(int row, int col) const { return size_t(row / 16) * (k / 64) + col / 64; }
    __device__ int half(int row, int col) const { return (col / 32) % 2 * 2 + row % 16 / 8; }
    __device__ size_t scale_at(int row, int col) const {
        size_t at = (tile(row, col) * 8 + row % 8) * 4 + half(row, col);
        return group == 16 ? at * 2 + col % 32 / 16 : at;
    }
    /// The word that holds the nibbles of eight columns.
    __device__ size_t word(int row, int col) const {
        return tile(row, col) * 128 + (4 * (row % 8) + col % 32 / 8) * 4 + half(row, col);
    }
    /// The first byte of four columns (`col` is a multiple of 4). Where 16 share a scale, a lane holds four of the first 16
    /// and four of the second, so that one product of the tensor cores meets one scale.
    __device__ size_t bytes(int row, int col) const {
        int lane = group == 16 ? col % 16 / 4 : col % 32 / 8, part = group == 16 ? col % 32 / 16 : col % 8 / 4;
        return tile(row, col) * 1024 + (col / 32) % 2 * 512 + (4 * (row % 8) + lane) * 16 + row % 16 / 8 * 8 + part * 4;
    }
    __device__ uint32_t& four(int row, int col) const {
        return *reinterpret_cast<uint32_t*>(static_cast<int8_t*>(data) + bytes(row, col));
    }
    __device__ float scale(int row, int col) const {
        size_t at = scale_at(row, col);
        return scale_f32 ? static_cast<const float*>(scales)[at] : __half2float(static_cast<const __half*>(scales)[at]);
    }
    __device__ float min(int row, int col) const { return mins ? mins[scale_at(row, col)] : 0.0f; }

    __device__ float value(int row, int col) const {
        switch (kind) {
            case WEIGHT_F32: return static_cast<const float*>(data)[size_t(row) * k + col];
            case WEIGHT_BF16: return __bfloat162float(static_cast<const bf16*>(data)[size_t(row) * k + col]);
            case WEIGHT_Q4: {
                uint32_t v = static_cast<const uint32_t*>(data)[word(row, col)];
                int e = col % 8, q = (v >> (4 * (e / 2 + e % 2 * 4))) & 15;
                return mins ? scale(row, col) * q - min(row, col) : scale(row, col) * (q - 8);
            }
            case WEIGHT_F8: {
                // Of four bytes the second and third are exchanged.
                int e = col % 4, at = e % 2 * 2 + e / 2;
                return f8_to_float(static_cast<const uint8_t*>(data)[bytes(row, col & ~3) + at]) * static_cast<const float*>(scales)[row];
            }
            default: {
                int q = static_cast<const int8_t*>(data)[bytes(row, col & ~3) + col % 4];
                return scale(row, col) * q - min(row, col);
            }
        }
    }

    /// Eight values from a column that 8 divides; k must be a multiple of 8, too.
    __device__ __forceinline__ void eight(int row, int col, float v[8]) const {
        if (kind == WEIGHT_BF16) {
            uint4 w = *reinterpret_cast<const uint4*>(static_cast<const bf16*>(data) + size_t(row) * k + col);
            float2 a = unpack_bf16(w.x), b = unpack_bf16(w.y), c = unpack_bf16(w.z), d = unpack_bf16(w.w);
            v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y, v[4] = c.x, v[5] = c.y, v[6] = d.x, v[7] = d.y;
        } else if (kind == WEIGHT_F32) {
            const float4* w = reinterpret_cast<const float4*>(static_cast<const float*>(data) + size_t(row) * k + col);
            float4 a = w[0], b = w[1];
            v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
        } else if (kind == WEIGHT_Q4) {
            uint32_t w = static_cast<const uint32_t*>(data)[word(row, col)];
            float s = scale(row, col), less = mins ? min(row, col) : 8 * s;
#pragma unroll
            for (int e = 0; e < 8; e++) v[e] = s * int((w >> (4 * (e / 2 + e % 2 * 4))) & 15) - less;
        } else if (kind == WEIGHT_F8) {
            const float s = static_cast<const float*>(scales)[row];
#pragma unroll
            for (int part = 0; part < 2; part++) {
                const uint2 w = widen_f8(four(row, col + 4 * part));
                const float2 a = unpack_bf16(w.x), b = unpack_bf16(w.y);
                v[4 * part] = a.x * s, v[4 * part + 1] = a.y * s, v[4 * part + 2] = b.x * s, v[4 * part + 3] = b.y * s;
            }
        } else {
            uint2 w = make_uint2(four(row, col), four(row, col + 4));
            float s = scale(row, col), less = min(row, col);
#pragma unroll
            for (int e = 0; e < 8; e++) v[e] = s * int8_t((e < 4 ? w.x : w.y) >> (8 * (e % 4))) - less;
        }
    }
};

/// The element types of files, in the order of weight.rs.
enum Stored { S_F32, S_F16, S_BF16, S_Q4_0, S_Q4_1, S_Q5_0, S_Q5_1, S_Q8_0, S_Q2K, S_Q3K, S_Q4K, S_Q5K, S_Q6K, S_IQ4_NL, S_IQ4_XS, S_NF4, S_F8 };

__constant__ int8_t IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/// An element as scale * q - min.
struct Element {
    int q;
    float scale, min;
};

__device__ __forceinline__ float half_of(const uint8_t* p) {
    return __half2float(__ushort_as_half(uint16_t(p[0] | p[1] << 8)));
}

__device__ __forceinline__ void scale_min_k(const uint8_t* s, int j, int& scale, int& min) {
    if (j < 4) scale = s[j] & 63, min = s[j + 4] & 63;
    else scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4, min = s[j + 4] >> 4 | (s[j] >> 6) << 4;
}

/// Element `i` of a quantized block (formats/src/blocks says what the bytes are). Q4_0's q is 0..15 less 8.
__device__ __noinline__ Element element(int stored, const uint8_t* b, int i) {
    int low = i % 16, up = i / 16 % 2 * 4;  // of the types with blocks of 32: the first 16 are the low nibbles
    switch (stored) {
        case S_Q4_0: return {((b[2 + low] >> up) & 15) - 8, half_of(b), 0};
        case S_Q4_1: return {(b[4 + low] >> up) & 15, half_of(b), -half_of(b + 2)};
        case S_Q5_0: {
            int fifth = (b[2 + i / 8] >> (i % 8)) & 1;
            return {(((b[6 + low] >> up) & 15) | fifth << 4) - 16, half_of(b), 0};
        }
        case S_Q5_1: {
            int fifth = (b[4 + i / 8] >> (i % 8)) & 1;
            return {((b[8 + low] >> up) & 15) | fifth << 4, half_of(b), -half_of(b + 2)};
        }
        case S_Q8_0: return {int8_t(b[2 + i]), half_of(b), 0};
        case S_IQ4_NL: return {IQ4_VALUES[(b[2 + low] >> up) & 15], half_of(b), 0};
        case S_Q2K: {
            int g = i / 16, q = (b[16 + g / 8 * 32 + g % 2 * 16 + i % 16] >> (g % 8 / 2 * 2)) & 3;
            return {q, half_of(b + 80) * (b[g] & 15), half_of(b + 82) * (b[g] >> 4)};
        }
        case S_Q3K: {
            int g = i / 16;
            int l = (b[96 + g % 8] >> (g / 8 * 4)) & 15, h = (b[104 + g % 4] >> (g / 4 * 2)) & 3;
            int q = (b[32 + g / 8 * 32 + g % 2 * 16 + i % 16] >> (g % 8 / 2 * 2)) & 3;
            int less = (b[g % 2 * 16 + i % 16] >> (g / 2)) & 1 ? 0 : 4;
            return {q - less, half_of(b + 108) * ((l | h << 4) - 32), 0};
        }
        case S_Q4K: case S_Q5K: {
            int g = i / 32, scale, min;
            scale_min_k(b + 4, g, scale, min);
            int nibbles = stored == S_Q4K ? 16 : 48;
            int q = (b[nibbles + g / 2 * 32 + i % 32] >> (g % 2 * 4)) & 15;
            if (stored == S_Q5K) q |= ((b[16 + i % 32] >> g) & 1) << 4;
            return {q, half_of(b) * scale, half_of(b + 2) * min};
        }
        case S_Q6K: {
            int g = i / 16, h = g / 8, run = g % 8 / 2, part = g % 2;
            int l = (b[h * 64 + run % 2 * 32 + part * 16 + i % 16] >> (run / 2 * 4)) & 15;
            int u = (b[128 + h * 32 + part * 16 + i % 16] >> (run * 2)) & 3;
            return {(l | u << 4) - 32, half_of(b + 208) * int8_t(b[192 + g]), 0};
        }
        default: {  // IQ4_XS
            int g = i / 32, high = b[2] | b[3] << 8;
            int scale = ((b[4 + g / 2] >> (g % 2 * 4)) & 15) | ((high >> (2 * g)) & 3) << 4;
            int q = (b[8 + g * 16 + i % 16] >> (i % 32 / 16 * 4)) & 15;
            return {IQ4_VALUES[q], half_of(b) * (scale - 32), 0};
        }
    }
}

/// The raw bytes of consecutive rows of a tensor, and what they are.
struct Raw {
    const uint8_t* bytes;
    const float* absmax;  // NF4: of the block that `bytes` begins with
    const float* map;     // NF4: 16 values
    int stored, block_len, block_bytes;

    __device__ float value(size_t i) const {
        if (stored == S_F32) return reinterpret_cast<const float*>(bytes)[i];
        if (stored == S_F16) return __half2float(reinterpret_cast<const __half*>(bytes)[i]);
        if (stored == S_BF16) return __bfloat162float(reinterpret_cast<const bf16*>(bytes)[i]);
        if (stored == S_F8) return f8_to_float(bytes[i]);
        if (stored == S_NF4) return map[(bytes[i / 2] >> (i % 2 ? 0 : 4)) & 15] * absmax[i / 64];
        Element e = element(stored, bytes + i / block_len * block_bytes, i % block_len);
        return e.scale * e.q - e.min;
    }
};

/// Rows `first..first + rows` of a weight of floats. One thread an element.
extern "C" __global__ void decode_rows(Raw raw, Weight w, int first, int rows) {
    size_t total = size_t(rows) * w.k;
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < total; i += size_t(gridDim.x) * blockDim.x)
        store(w.data, size_t(first) * w.k + i, w.kind == WEIGHT_BF16, raw.value(i));
}

__device__ __forceinline__ void put_scale(const Weight& w, size_t at, float scale) {
    if (w.scale_f32) static_cast<float*>(w.scales)[at] = scale;
    else static_cast<__half*>(w.scales)[at] = __float2half(scale);
}

/// Rows of a quantized weight from blocks of the same precision. One thread eight elements.
extern "C" __global__ void repack_rows(Raw raw, Weight w, int first, int rows) {
    size_t total = size_t(rows) * (w.k / 8);
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < total; i += size_t(gridDim.x) * blockDim.x) {
        size_t at = i * 8;
        int row = first + int(at / w.k), col = int(at % w.k);
        uint32_t nibbles = 0;
        uint2 bytes = make_uint2(0, 0);
        Element e;
        for (int j = 0; j < 8; j++) {
            e = element(raw.stored, raw.bytes + (at + j) / raw.block_len * raw.block_bytes, (at + j) % raw.block_len);
            int q = raw.stored == S_Q4_0 ? e.q + 8 : e.q;
            nibbles |= uint32_t(q & 15) << (4 * (j / 2 + j % 2 * 4));
            (j < 4 ? bytes.x : bytes.y) |= uint32_t(uint8_t(q)) << (8 * (j % 4));
        }
        if (w.kind == WEIGHT_Q4) static_cast<uint32_t*>(w.data)[w.word(row, col)] = nibbles;
        else w.four(row, col) = bytes.x, w.four(row, col + 4) = bytes.y;
        if (col % w.group == 0) {
            put_scale(w, w.scale_at(row, col), e.scale);
            if (w.mins) w.mins[w.scale_at(row, col)] = e.min;
        }
    }
}

/// Rows of a quantized weight from any values, rounded as ggml's Q4_0 and Q8_0. One thread 32 elements.
extern "C" __global__ void quantize_rows(Raw raw, Weight w, int first, int rows) {
    size_t total = size_t(rows) * (w.k / 32);
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < total; i += size_t(gridDim.x) * blockDim.x) {
        size_t at = i * 32;
        int row = first + int(at / w.k), col = int(at % w.k);
        float extreme = 0;
        for (int j = 0; j < 32; j++) {
            float v = raw.value(at + j);
            if (fabsf(v) > fabsf(extreme)) extreme = v;
        }
        float d = w.kind == WEIGHT_Q4 ? extreme / -8.0f : fabsf(extreme) / 127.0f, inverse = d == 0 ? 0 : 1.0f / d;
        put_scale(w, w.scale_at(row, col), d);
        for (int part = 0; part < 4; part++) {
            uint32_t nibbles = 0;
            uint2 bytes = make_uint2(0, 0);
            for (int j = 0; j < 8; j++) {
                float scaled = raw.value(at + 8 * part + j) * inverse;
                int level = min(max(int(scaled + 8.5f), 0), 15), q = int(roundf(scaled));
                nibbles |= uint32_t(level) << (4 * (j / 2 + j % 2 * 4));
                (j < 4 ? bytes.x : bytes.y) |= uint32_t(uint8_t(q)) << (8 * (j % 4));
            }
            if (w.kind == WEIGHT_Q4) static_cast<uint32_t*>(w.data)[w.word(row, col + 8 * part)] = nibbles;
            else w.four(row, col + 8 * part) = bytes.x, w.four(row, col + 8 * part + 4) = bytes.y;
        }
    }
}

/// Rows of a weight from any values, rounded to 8-bit floats with the smallest power of two for each that leaves them within
/// the type (formats/src/blocks/f8.rs); a weight of floats takes the values that they stand for. One block a row.
extern "C" __global__ void round_rows(Raw raw, Weight w, int first, int rows) {
    __shared__ float scratch[32];
    for (int at = blockIdx.x; at < rows; at += gridDim.x) {
        const size_t from = size_t(at) * w.k;
        float most = 0;
        for (int col = threadIdx.x; col < w.k; col += blockDim.x) most = fmaxf(most, fabsf(raw.value(from + col)));
        __syncthreads();
        most = block_max(most, scratch);
        const uint32_t bits = __float_as_uint(most);
        const int exponent = int(bits >> 23) - 127 - 8 + ((bits & 0x7fffffu) > 0x600000u);
        const float scale = most == 0 ? 1 : __uint_as_float(uint32_t(min(max(exponent, -100), 100) + 127) << 23);
        const int row = first + at;
        for (int col = threadIdx.x * 4; col < w.k; col += blockDim.x * 4) {
            uint8_t code[4] = {};
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (col + e >= w.k) break;
                code[e] = float_to_f8(raw.value(from + col + e) / scale);
                if (w.kind != WEIGHT_F8) store(w.data, size_t(row) * w.k + col + e, w.kind == WEIGHT_BF16, f8_to_float(code[e]) * scale);
            }
            if (w.kind == WEIGHT_F8) w.four(row, col) = code[0] | code[2] << 8 | code[1] << 16 | uint32_t(code[3]) << 24;
        }
        if (w.kind == WEIGHT_F8 && threadIdx.x == 0) static_cast<float*>(w.scales)[row] = scale;
    }
}

/// Rows `first..first + rows` of a quantized weight as bf16 [rows][k]. One thread eight elements.
extern "C" __global__ void dequantize(Weight w, int first, int rows, bf16* out) {
    launch_next();
    wait_for_former();
    size_t total = size_t(rows) * (w.k / 8);
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < total; i += size_t(gridDim.x) * blockDim.x) {
        size_t at = i * 8;
        float v[8];
        w.eight(first + int(at / w.k), int(at % w.k), v);
        reinterpret_cast<uint4*>(out)[i] =
            make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
    }
}
