//! Sequences, KV cache, generation and the public Pipeline.
