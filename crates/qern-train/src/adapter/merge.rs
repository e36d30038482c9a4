//! An adapter merged into its base: a folder of safetensors that any program runs without knowing of adapters. Tensors keep the
//! base's types; those that the adapter does not change are copied as they are. Written in one pass, a tensor at a time.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use qern_kernels::WeightFormat;
use qern_kernels::dequantize::dequantize;
use qern_kernels::isa::Isa;
use qern_kernels::matrix::PackedMatrix;
use qern_model::checkpoint::{Checkpoint, expected_tensors};
use qern_model::lora::{Adapter, Addition};
use qern_model::tensor::TensorView;
use safetensors::tensor::{Dtype, View};

use crate::{Error, Result};

/// What a merge did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergeReport {
    /// Tensors that the adapter changed.
    pub num_changed: usize,
    /// Tensors in all.
    pub num_tensors: usize,
    /// Bytes written.
    pub num_bytes: u64,
}

/// The merged weights' file.
const WEIGHTS: &str = "model.safetensors";
/// What the folder of a model holds beside the weights and is as good for the merged one.
const COPIED: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
];

/// Writes the model that base and adapter are together into the new folder `out`, which is there whole or not at all.
pub fn merge(base: &Checkpoint, adapter: &Adapter, out: &Path) -> Result<MergeReport> {
    let Some(folder) = folder_of(base) else {
        return Err(Error::Config(
            "an adapter can be merged into a base in safetensors only, for its numbers would have to be quantized again; serve it \
             beside this base by --adapter, or merge it into the original checkpoint"
                .into(),
        ));
    };
    if adapter.replaces_tensors() {
        let rule = "an adapter with whole modules (`modules_to_save`), or one on the embedding, cannot be merged yet";
        return Err(Error::Config(format!("{rule}; serve it beside its base by --adapter")));
    }
    let additions: HashMap<String, &Addition> =
        adapter.additions().map(|(site, addition)| (format!("{site}.weight"), addition)).collect();
    let mut tensors = Vec::new();
    for expected in expected_tensors(base.config()) {
        let tensor = base.tensor(&expected.name)?;
        let dtype = match tensor.format {
            WeightFormat::F32 => Dtype::F32,
            WeightFormat::F16 => Dtype::F16,
            WeightFormat::BF16 => Dtype::BF16,
            other => {
                return Err(Error::Config(format!("`{}` has the format {other}, which safetensors have not", expected.name)));
            }
        };
        // A vector is one row to us, and has one dimension in the file.
        let shape = if tensor.rows == 1 { vec![tensor.cols] } else { vec![tensor.rows, tensor.cols] };
        let addition = additions.get(&expected.name).copied();
        tensors.push((expected.name, Merged { tensor, dtype, shape, addition }));
    }
    let num_changed = tensors.iter().filter(|(_, merged)| merged.addition.is_some()).count();
    if num_changed != additions.len() {
        return Err(Error::Config(
            "the adapter changes modules that the base has no weights of its own for (a tied head)".into(),
        ));
    }
    let num_tensors = tensors.len();
    let temporary = temporary(out)?;
    let written = write(&temporary, &folder, tensors).and_then(|num_bytes| {
        fs::rename(&temporary, out).map_err(|source| Error::io("rename", &temporary, source))?;
        Ok(num_bytes)
    });
    if written.is_err() {
        _ = fs::remove_dir_all(&temporary);
    }
    Ok(MergeReport { num_changed, num_tensors, num_bytes: written? })
}

fn folder_of(base: &Checkpoint) -> Option<PathBuf> {
    let path = base.paths().first()?.to_path_buf();
    (base.gguf().is_none()).then(|| path.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf))
}

/// A new folder beside the one to be, which must not be there.
fn temporary(out: &Path) -> Result<PathBuf> {
    if out.exists() {
        return Err(Error::Config(format!("`{}` must not exist yet; name a new folder", out.display())));
    }
    let name = out.file_name().ok_or_else(|| Error::Config(format!("`{}` must name a folder", out.display())))?;
    let path = out.with_file_name(format!(".tmp-{}", name.to_string_lossy()));
    _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).map_err(|source| Error::io("make the folder", &path, source))?;
    Ok(path)
}

fn write(folder: &Path, from: &Path, tensors: Vec<(String, Merged)>) -> Result<u64> {
    for name in COPIED {
        let source = from.join(name);
        if source.exists() {
            fs::copy(&source, folder.join(name)).map_err(|error| Error::io("copy", source, error))?;
        }
    }
    let path = folder.join(WEIGHTS);
    let metadata = [("format".to_string(), "pt".to_string())].into_iter().collect();
    safetensors::serialize_to_file(tensors, Some(metadata), &path)
        .map_err(|error| Error::io("write", &path, std::io::Error::other(error)))?;
    let synced = File::open(&path).and_then(|file| {
        file.sync_all()?;
        file.metadata()
    });
    Ok(synced.map_err(|source| Error::io("write", &path, source))?.len())
}

/// A tensor as it will be, computed when it is written.
struct Merged<'a> {
    tensor: TensorView<'a>,
    dtype: Dtype,
    shape: Vec<usize>,
    addition: Option<&'a Addition>,
}

impl View for Merged<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.addition {
            None => self.tensor.bytes.into(),
            Some(addition) => merged(&self.tensor, addition).into(),
        }
    }

    fn data_len(&self) -> usize {
        self.tensor.bytes.len()
    }
}

/// `W + scale B A`, for DoRA with every row brought to its magnitude; in the tensor's own format.
fn merged(tensor: &TensorView, addition: &Addition) -> Vec<u8> {
    let (a, b) = (floats(addition.a()), floats(addition.b()));
    let rank = addition.b().cols();
    let mut row_values = vec![0.0; tensor.cols];
    let mut sum = vec![0.0f64; tensor.cols];
    let mut bytes = Vec::with_capacity(tensor.bytes.len());
    for row in 0..tensor.rows {
        dequantize(tensor.format, tensor.row(row), &mut row_values);
        sum.iter_mut().zip(&row_values).for_each(|(sum, &value)| *sum = value.into());
        for (r, a) in a.chunks_exact(tensor.cols).enumerate() {
            let factor = f64::from(addition.scale()) * f64::from(b[row * rank + r]);
            sum.iter_mut().zip(a).for_each(|(sum, &a)| *sum += factor * f64::from(a));
        }
        if let Some(magnitude) = addition.magnitude() {
            let norm = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
            sum.iter_mut().for_each(|value| *value *= f64::from(magnitude[row]) / norm);
        }
        for &value in &sum {
            let value = value as f32;
            match tensor.format {
                WeightFormat::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
                WeightFormat::BF16 => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
                _ => bytes.extend(value.to_le_bytes()),
            }
        }
    }
    bytes
}

/// The values of a small matrix.
fn floats(matrix: &PackedMatrix) -> Vec<f32> {
    let mut values = vec![0.0; matrix.rows() * matrix.cols()];
    for (row, out) in values.chunks_exact_mut(matrix.cols()).enumerate() {
        matrix.dequantize_row(Isa::active(), row, out);
    }
    values
}
