//! A model on disk, whatever its files: one view of configuration, sampling defaults, tokenizer, chat template and tensors,
//! under the names of the checkpoint (Hugging Face). Reads and checks; what the tensors are packed into is not known here.

mod locate;
mod names;
mod vocabulary;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use qern_kernels::WeightFormat;

use locate::Files;

pub use names::{ExpectedTensor, checkpoint_name, expected_tensors, gguf_name};

use crate::config::ModelConfig;
use crate::error::{Error, Result, shorten};
use crate::generation::GenerationDefaults;
use crate::gguf::GgufFile;
use crate::json::{self, Object};
use crate::safetensors::SafetensorsFile;
use crate::tensor::TensorView;
use crate::vocabulary::{GgufVocabulary, TokenizerSource};

/// The files of a model, opened and checked: every tensor that the configuration asks for is there, in a shape that fits and
/// a format that the kernels read.
#[derive(Debug)]
pub struct Checkpoint {
    weights: Weights,
    config: ModelConfig,
    generation_defaults: GenerationDefaults,
    chat_template: Option<String>,
    formats: Vec<FormatShare>,
}

#[derive(Debug)]
enum Weights {
    Gguf(GgufFile),
    Safetensors { file: SafetensorsFile, folder: PathBuf },
}

/// How much of a model is stored in one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatShare {
    /// The format.
    pub format: WeightFormat,
    /// Tensors stored in it.
    pub num_tensors: usize,
    /// Their bytes in the files.
    pub num_bytes: u64,
}

impl Checkpoint {
    /// Opens a GGUF file (or any part of a split one), a safetensors file, or a folder that holds one model.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let opened = match locate::locate(path)? {
            Files::Gguf(file) => Self::from_gguf(GgufFile::open(file)?),
            Files::Safetensors { weights, folder } => Self::from_safetensors(SafetensorsFile::open(weights)?, folder),
        };
        opened.map_err(|error| error.in_file(path))
    }

    fn from_gguf(file: GgufFile) -> Result<Self> {
        let config = ModelConfig::from_gguf(&file)?;
        let generation_defaults = GenerationDefaults::from_gguf(&file)?;
        let chat_template = file.metadata().str("tokenizer.chat_template")?.map(str::to_owned);
        Self { weights: Weights::Gguf(file), config, generation_defaults, chat_template, formats: Vec::new() }.checked()
    }

    fn from_safetensors(file: SafetensorsFile, folder: PathBuf) -> Result<Self> {
        let config_path = folder.join("config.json");
        let config = json::read_object(&config_path)?
            .ok_or_else(|| Error::Checkpoint("`config.json` is missing beside the weights; fetch it too".into()))?;
        let config = ModelConfig::from_object(Object(&config)).map_err(|error| error.in_file(&config_path))?;
        let generation_defaults = GenerationDefaults::from_folder(&folder)?;
        let chat_template = vocabulary::template_of_folder(&folder)?;
        let weights = Weights::Safetensors { file, folder };
        Self { weights, config, generation_defaults, chat_template, formats: Vec::new() }.checked()
    }

    fn checked(mut self) -> Result<Self> {
        let expected = expected_tensors(&self.config);
        let mut shares = BTreeMap::new();
        for ExpectedTensor { name, rows, cols } in &expected {
            let tensor = self.tensor(name)?;
            if (tensor.rows, tensor.cols) != (*rows, *cols) {
                return Err(Error::Checkpoint(format!(
                    "the tensor `{name}` must have shape [{rows}, {cols}] by the configuration; it has [{}, {}]",
                    tensor.rows, tensor.cols
                )));
            }
            let id = tensor.format.ggml_id();
            let share = shares.entry(id).or_insert(FormatShare { format: tensor.format, num_tensors: 0, num_bytes: 0 });
            share.num_tensors += 1;
            share.num_bytes += tensor.bytes.len() as u64;
        }
        self.refuse_unknown(&expected)?;
        self.formats = shares.into_values().collect();
        self.formats.sort_by_key(|share| std::cmp::Reverse(share.num_bytes));
        Ok(self)
    }

    /// A tensor that would silently be left out of the computation is an error; one that is known not to matter is not, and
    /// one outside the layers is a warning (heads for other tasks, layers for drafting).
    fn refuse_unknown(&self, expected: &[ExpectedTensor]) -> Result<()> {
        let expected: HashSet<&str> = expected.iter().map(|tensor| tensor.name.as_str()).collect();
        let mut unused = Vec::new();
        for stored in self.stored_names() {
            let name = match &self.weights {
                Weights::Gguf(_) => checkpoint_name(stored),
                Weights::Safetensors { .. } => None,
            };
            let name = name.as_deref().unwrap_or(stored);
            if expected.contains(name) || names::is_harmless(name, &self.config) {
                continue;
            }
            let layer = name
                .strip_prefix("model.layers.")
                .or_else(|| name.strip_prefix("blk."))
                .and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            if layer.is_some_and(|layer| layer < self.config.num_layers) || name.ends_with(".bias") {
                return Err(Error::Checkpoint(format!(
                    "the tensor `{}` is not part of the {} architecture; leaving it out would change the model's answers",
                    shorten(stored),
                    self.config.architecture
                )));
            }
            unused.push(stored);
        }
        if let Some(first) = unused.first() {
            tracing::warn!("{} tensors are not used, such as `{}`", unused.len(), shorten(first));
        }
        Ok(())
    }

    fn stored_names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &self.weights {
            Weights::Gguf(file) => Box::new(file.tensors().iter().map(|tensor| tensor.name.as_str())),
            Weights::Safetensors { file, .. } => Box::new(file.tensors().iter().map(|tensor| tensor.name.as_str())),
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Sampling defaults and end tokens.
    pub fn generation_defaults(&self) -> &GenerationDefaults {
        &self.generation_defaults
    }

    /// The Jinja source of the chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// What the tokenizer is built from. Copies it out of the files.
    pub fn tokenizer_source(&self) -> Result<TokenizerSource> {
        match &self.weights {
            Weights::Gguf(file) => GgufVocabulary::from_gguf(file).map(TokenizerSource::Gguf),
            Weights::Safetensors { folder, .. } => vocabulary::from_folder(folder).map(TokenizerSource::Json),
        }
    }

    /// The tensor with this checkpoint name, such as `model.layers.3.self_attn.q_proj.weight`.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let missing = || Error::Checkpoint(format!("the tensor `{}` is missing; the files are incomplete", shorten(name)));
        match &self.weights {
            Weights::Gguf(file) => {
                let stored = gguf_name(name).ok_or_else(missing)?;
                if file.tensor_info(&stored).is_none() {
                    return Err(Error::Checkpoint(format!(
                        "the tensor `{stored}` (`{}`) is missing; the file is incomplete",
                        shorten(name)
                    )));
                }
                file.tensor(&stored)
            }
            Weights::Safetensors { file, .. } if file.tensor_info(name).is_none() => Err(missing()),
            Weights::Safetensors { file, .. } => file.tensor(name),
        }
    }

    /// Whether there is a tensor with this checkpoint name.
    pub fn has_tensor(&self, name: &str) -> bool {
        match &self.weights {
            Weights::Gguf(file) => gguf_name(name).is_some_and(|name| file.tensor_info(&name).is_some()),
            Weights::Safetensors { file, .. } => file.tensor_info(name).is_some(),
        }
    }

    /// The GGUF file behind the model, where it is one.
    pub fn gguf(&self) -> Option<&GgufFile> {
        match &self.weights {
            Weights::Gguf(file) => Some(file),
            Weights::Safetensors { .. } => None,
        }
    }

    /// The files that hold the weights.
    pub fn paths(&self) -> Vec<&Path> {
        match &self.weights {
            Weights::Gguf(file) => file.paths().collect(),
            Weights::Safetensors { file, .. } => file.paths().collect(),
        }
    }

    /// The formats of the model's tensors, the one with the most bytes first.
    pub fn formats(&self) -> &[FormatShare] {
        &self.formats
    }

    /// The formats in a line, as in `Q4_K 217, Q6_K 36, F32 145`.
    pub fn format_summary(&self) -> String {
        let shares: Vec<_> = self.formats.iter().map(|share| format!("{} {}", share.format, share.num_tensors)).collect();
        shares.join(", ")
    }

    /// The bytes of the model's tensors in the files.
    pub fn num_bytes(&self) -> u64 {
        self.formats.iter().map(|share| share.num_bytes).sum()
    }

    /// The values of the model's tensors: its parameters.
    pub fn num_parameters(&self) -> u64 {
        expected_tensors(&self.config).iter().map(|tensor| tensor.rows as u64 * tensor.cols as u64).sum()
    }
}
