//! Any bytes as a `config.json`: whatever is accepted obeys the rules that the transformer relies on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qern_model::config::ModelConfig;

fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = ModelConfig::from_json(bytes) else { return };
    assert!(config.num_layers > 0 && config.q_size() > 0 && config.kv_size() > 0);
    assert!(config.num_heads % config.num_kv_heads == 0 && config.head_dim % 2 == 0);
    assert!(config.rope.theta.is_finite() && config.rms_norm_eps > 0.0);
    assert!(config.validated().is_ok());
});
