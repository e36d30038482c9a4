//! `ModelConfig` from `config.json`.
