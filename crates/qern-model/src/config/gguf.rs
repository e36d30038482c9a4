//! `ModelConfig` from the metadata of a GGUF file.
