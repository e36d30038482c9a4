//! llama.cpp's adapter GGUF of a trained adapter. Source: `convert_lora_to_gguf.py` and `llama-adapter.cpp` of llama.cpp. The format
//! has one alpha and divides it by each pair's own rank; other scales are multiplied into B. It has no DoRA and no whole modules.

use qern_model::checkpoint::gguf_name;
use qern_model::config::{Architecture, ModelConfig, RopeLayout};

use super::AdapterSpec;
use crate::{Error, Result};

/// What the file says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufHeader {
    /// The adapter's name.
    pub name: String,
    /// LoRA's alpha.
    pub alpha: f32,
    /// The base's fingerprint, under `qern.base`.
    pub fingerprint: Option<String>,
}

const ALIGNMENT: usize = 32;
const TYPE_U32: u32 = 4;
const TYPE_F32: u32 = 6;
const TYPE_STRING: u32 = 8;

/// The file's bytes. `values` are those of `spec.parameters()`, with rows in the order of the base as loaded.
pub fn adapter_gguf(header: &GgufHeader, spec: &AdapterSpec, config: &ModelConfig, values: &[Vec<f32>]) -> Result<Vec<u8>> {
    if spec.modules.iter().any(|module| module.dora) {
        return Err(Error::Config("an adapter GGUF cannot hold DoRA's magnitudes; keep the PEFT folder".into()));
    }
    if let Some(saved) = spec.saved.first() {
        let name = &saved.name;
        return Err(Error::Config(format!("an adapter GGUF cannot hold whole modules, such as `{name}`; keep the PEFT folder")));
    }
    let mut tensors = Vec::new();
    for (module, pair) in spec.modules.iter().zip(values.chunks_exact(2)) {
        let [a, b] = pair else { return Err(Error::Model("there must be two matrices for each module".into())) };
        let name = gguf_name(&format!("{}.weight", module.name));
        let name = name.ok_or_else(|| Error::Config(format!("`{}` has no name in GGUF files", module.name)))?;
        let factor = module.scale * module.rank as f32 / header.alpha;
        let b: Vec<f32> = gguf_rows(config, &module.name, b, module.rank).into_iter().map(|value| value * factor).collect();
        // GGUF counts dimensions from the innermost.
        tensors.push((format!("{name}.lora_a"), [module.in_features, module.rank], a.clone()));
        tensors.push((format!("{name}.lora_b"), [module.rank, module.out_features], b));
    }
    let architecture = match config.architecture {
        // Their files say so too.
        Architecture::Mistral => Architecture::Llama.name(),
        architecture => architecture.name(),
    };
    let mut file = Writer::default();
    let num_entries = 6 + u64::from(header.fingerprint.is_some());
    file.bytes.extend(b"GGUF");
    file.u32(3);
    file.u64(tensors.len() as u64);
    file.u64(num_entries);
    file.text_entry("general.type", "adapter");
    file.text_entry("general.architecture", architecture);
    file.text_entry("general.name", &header.name);
    file.entry("general.alignment", TYPE_U32);
    file.u32(ALIGNMENT as u32);
    file.text_entry("adapter.type", "lora");
    file.entry("adapter.lora.alpha", TYPE_F32);
    file.bytes.extend(header.alpha.to_le_bytes());
    if let Some(fingerprint) = &header.fingerprint {
        file.text_entry("qern.base", fingerprint);
    }
    let mut offset = 0;
    for (name, dims, values) in &tensors {
        file.text(name);
        file.u32(2);
        dims.iter().for_each(|&dim| file.u64(dim as u64));
        file.u32(0);
        file.u64(offset);
        offset += (4 * values.len()).next_multiple_of(ALIGNMENT) as u64;
    }
    for (_, _, values) in tensors {
        file.pad();
        file.bytes.extend(values.into_iter().flat_map(f32::to_le_bytes));
    }
    file.pad();
    Ok(file.bytes)
}

/// The rows of B as the base's GGUF has them: those of q and k of a Llama are interleaved within each head, which they already are
/// when the base was loaded from such a file.
fn gguf_rows(config: &ModelConfig, module: &str, values: &[f32], width: usize) -> Vec<f32> {
    let is_llama = matches!(config.architecture, Architecture::Llama | Architecture::Mistral);
    let is_rotated = module.ends_with(".q_proj") || module.ends_with(".k_proj");
    if !is_llama || !is_rotated || config.rope.layout == RopeLayout::Interleaved {
        return values.to_vec();
    }
    let head = config.head_dim;
    let mut rows = vec![0.0; values.len()];
    for (row, to) in rows.chunks_exact_mut(width).enumerate() {
        let (start, within) = (row / head * head, row % head);
        let from = start + within % 2 * (head / 2) + within / 2;
        to.copy_from_slice(&values[from * width..(from + 1) * width]);
    }
    rows
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.bytes.extend(text.as_bytes());
    }

    fn entry(&mut self, key: &str, value_type: u32) {
        self.text(key);
        self.u32(value_type);
    }

    fn text_entry(&mut self, key: &str, text: &str) {
        self.entry(key, TYPE_STRING);
        self.text(text);
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}
