//! An adapter's files, whatever their format, before they meet a base: which modules they change, by which tensors, at which
//! scale. Headers and configuration are read and checked here; weights are not.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::peft_config::{CONFIG_NAME, PeftConfig};
use super::site::Site;
use crate::checkpoint::checkpoint_name;
use crate::error::{Error, Result, shorten};
use crate::gguf::GgufFile;
use crate::safetensors::{SafetensorsFile, refuse_pickle};
use crate::tensor::TensorView;

/// The name of PEFT's weights.
pub(super) const WEIGHTS_NAME: &str = "adapter_model.safetensors";

/// An adapter on disk.
#[derive(Debug)]
pub struct AdapterFile {
    pub(super) path: PathBuf,
    pub(super) weights: Weights,
    /// The low-rank additions, by place.
    pub(super) additions: BTreeMap<Site, Addition>,
    /// Names of the tensors that replace the base's (`modules_to_save`), by place.
    pub(super) replacements: BTreeMap<Site, String>,
    /// Names of tensors that are copies of the base's, which PEFT saves beside an adapter of the embedding.
    pub(super) copies: BTreeMap<Site, String>,
    pub(super) notes: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Weights {
    Peft { config: PeftConfig, file: SafetensorsFile },
    Gguf { file: GgufFile, architecture: String, fingerprint: Option<String> },
}

/// One module's tensors, by their names in the file, and its scale.
#[derive(Debug)]
pub(super) struct Addition {
    /// `[rank, in]`; of the embedding in a GGUF file `[vocab, rank]`.
    pub a: String,
    /// `[out, rank]`
    pub b: String,
    /// DoRA's, `[out]`.
    pub magnitude: Option<String>,
    pub rank: usize,
    pub alpha: f64,
    pub scale: f64,
}

/// The tensors found for a module.
#[derive(Default)]
struct Found {
    a: Option<String>,
    b: Option<String>,
    magnitude: Option<String>,
}

/// What a tensor of a PEFT file is to its module.
enum Part {
    A,
    B,
    Magnitude,
    Copy,
    Whole,
}

impl AdapterFile {
    /// Opens a PEFT folder (or its `adapter_model.safetensors`), or an adapter GGUF of llama.cpp.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let metadata = path.metadata().map_err(|source| Error::io(path, source))?;
        let opened = if metadata.is_dir() {
            Self::open_folder(path)
        } else if path.file_name().is_some_and(|name| name == WEIGHTS_NAME || name == CONFIG_NAME) {
            Self::open_folder(match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            })
        } else {
            refuse_pickle(path)?;
            Self::open_gguf(path)
        };
        opened.map_err(|error| error.in_file(path))
    }

    fn open_folder(folder: &Path) -> Result<Self> {
        let weights = folder.join(WEIGHTS_NAME);
        if !folder.join(CONFIG_NAME).exists() {
            let mut gguf: Vec<_> = match folder.read_dir() {
                Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
                Err(source) => return Err(Error::io(folder, source)),
            };
            gguf.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
            if let [only] = &gguf[..] {
                return Self::open_gguf(only);
            }
            if folder.join("config.json").exists() {
                return refuse(format!("this folder holds a model, not an adapter: `{CONFIG_NAME}` is missing"));
            }
        }
        let config = PeftConfig::read(folder)?;
        if !weights.exists() {
            let pickle = folder.join("adapter_model.bin");
            if pickle.exists() {
                return Err(Error::Adapter(format!(
                    "`adapter_model.bin` is a pickle, which runs code when it is loaded, and is never opened; save the adapter \
                     with `save_pretrained(..., safe_serialization=True)`, which writes `{WEIGHTS_NAME}`"
                ))
                .in_file(&pickle));
            }
            return refuse(format!("`{WEIGHTS_NAME}` is missing beside `{CONFIG_NAME}`"));
        }
        Self::from_peft(folder, config, SafetensorsFile::open(&weights)?).map_err(|error| error.in_file(&weights))
    }

    fn from_peft(folder: &Path, config: PeftConfig, file: SafetensorsFile) -> Result<Self> {
        let mut found: BTreeMap<Site, Found> = BTreeMap::new();
        let (mut replacements, mut copies) = (BTreeMap::new(), BTreeMap::new());
        for tensor in file.tensors() {
            let name = &tensor.name;
            let Some((site, part)) = peft_part(name) else { return refuse(unknown(name)) };
            let before = match part {
                Part::A => found.entry(site).or_default().a.replace(name.clone()),
                Part::B => found.entry(site).or_default().b.replace(name.clone()),
                Part::Magnitude => found.entry(site).or_default().magnitude.replace(name.clone()),
                Part::Whole if config.saves(site) => replacements.insert(site, name.clone()),
                Part::Whole if matches!(site, Site::Embedding | Site::Head) => copies.insert(site, name.clone()),
                Part::Copy => copies.insert(site, name.clone()),
                Part::Whole => return refuse(unknown(name)),
            };
            if let Some(before) = before {
                return refuse(format!(
                    "`{site}` must have one tensor of a kind; it has `{}` and `{}`",
                    shorten(&before),
                    shorten(name)
                ));
            }
        }
        for name in &config.modules_to_save {
            if !replacements.keys().any(|site| site.name() == name || site.to_string() == *name) {
                return refuse(format!(
                    "`modules_to_save` names `{}`; only `embed_tokens` and `lm_head` are supported, and their tensors must be in the file",
                    shorten(name)
                ));
            }
        }
        if let Some(site) = replacements.keys().find(|site| matches!(site, Site::Layer(..))) {
            return refuse(format!("`modules_to_save` names `{site}`; only `embed_tokens` and `lm_head` are supported"));
        }
        let mut notes = config.notes.clone();
        notes.extend(copies.values().map(|name| format!("`{}` is a copy of the base's weights and is not used", shorten(name))));
        let mut additions = BTreeMap::new();
        for (site, found) in found {
            let (a, b) = both(site, found.a, found.b)?;
            let path = site.to_string();
            let (stored, expected) = (rank_of(&file.tensor(&b)?), config.rank_of(&path));
            if stored != expected {
                return refuse(format!("`{path}` must have rank {expected} by `{CONFIG_NAME}`; `{}` has {stored}", shorten(&b)));
            }
            if config.targets(site) == Some(false) {
                return refuse(format!("`{path}` has weights but `target_modules` of `{CONFIG_NAME}` does not name it"));
            }
            match (&found.magnitude, config.use_dora) {
                (None, true) => return refuse(format!("`{path}` has no `lora_magnitude_vector`, which `use_dora` asks for")),
                (Some(name), false) => {
                    return refuse(format!("`{}` needs `use_dora` in `{CONFIG_NAME}`, which is not set", shorten(name)));
                }
                (Some(_), true) if site == Site::Embedding => {
                    return refuse("DoRA on `model.embed_tokens` is not supported; train it without DoRA".into());
                }
                _ => {}
            }
            let (alpha, scale) = (config.alpha_of(&path), config.scale_of(&path, stored));
            additions.insert(site, Addition { a, b, magnitude: found.magnitude, rank: stored, alpha, scale });
        }
        let weights = Weights::Peft { config, file };
        Self { path: folder.to_owned(), weights, additions, replacements, copies, notes }.not_empty()
    }

    fn open_gguf(path: &Path) -> Result<Self> {
        let mut magic = Vec::new();
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        file.take(4).read_to_end(&mut magic).map_err(|source| Error::io(path, source))?;
        if magic != b"GGUF" {
            return refuse(format!(
                "an adapter must be a PEFT folder (`{CONFIG_NAME}` and `{WEIGHTS_NAME}`) or an adapter GGUF of llama.cpp; this is neither"
            ));
        }
        Self::from_gguf(path, GgufFile::open(path)?).map_err(|error| error.in_file(path))
    }

    fn from_gguf(path: &Path, file: GgufFile) -> Result<Self> {
        let metadata = file.metadata();
        match metadata.str("general.type")? {
            Some("adapter") => {}
            Some(other) => return refuse(format!("`general.type` must be `adapter`; given `{}`", shorten(other))),
            None => return refuse("`general.type` is missing, as in a model; an adapter's is `adapter`".into()),
        }
        match metadata.str("adapter.type")? {
            Some("lora") => {}
            other => return refuse(format!("`adapter.type` must be `lora`; given `{}`", shorten(other.unwrap_or("nothing")))),
        }
        if metadata.get("adapter.alora.invocation_tokens").is_some() {
            return refuse("`adapter.alora.invocation_tokens` asks for activated LoRA, which is not supported".into());
        }
        let architecture = metadata.str("general.architecture")?.unwrap_or_default().to_owned();
        let alpha = metadata.f32("adapter.lora.alpha")?.unwrap_or(0.0);
        if !alpha.is_finite() {
            return refuse(format!("`adapter.lora.alpha` must be finite; given {alpha}"));
        }
        let fingerprint = metadata.str("qern.base")?.map(str::to_owned);
        let mut found: BTreeMap<Site, Found> = BTreeMap::new();
        for tensor in file.tensors() {
            let name = &tensor.name;
            let (module, is_a) = match (name.strip_suffix(".lora_a"), name.strip_suffix(".lora_b")) {
                (Some(module), _) => (module, true),
                (_, Some(module)) => (module, false),
                _ => return refuse(unknown(name)),
            };
            let module = checkpoint_name(module);
            let site = module.as_deref().and_then(|name| Site::from_path(name.strip_suffix(".weight")?));
            let Some(site) = site else { return refuse(unknown(name)) };
            let found = found.entry(site).or_default();
            *(if is_a { &mut found.a } else { &mut found.b }) = Some(name.clone());
        }
        let mut additions = BTreeMap::new();
        for (site, found) in found {
            let (a, b) = both(site, found.a, found.b)?;
            let rank = rank_of(&file.tensor(&b)?);
            // llama.cpp: no alpha is a scale of one.
            let scale = if alpha == 0.0 { 1.0 } else { f64::from(alpha) / rank as f64 };
            additions.insert(site, Addition { a, b, magnitude: None, rank, alpha: scale * rank as f64, scale });
        }
        let weights = Weights::Gguf { file, architecture, fingerprint };
        let (replacements, copies) = (BTreeMap::new(), BTreeMap::new());
        Self { path: path.to_owned(), weights, additions, replacements, copies, notes: Vec::new() }.not_empty()
    }

    fn not_empty(self) -> Result<Self> {
        if self.additions.is_empty() && self.replacements.is_empty() {
            return refuse("the file holds no tensor of an adapter".into());
        }
        Ok(self)
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the reader should know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The fingerprint of the base that it was trained on, where the file records it.
    pub fn fingerprint(&self) -> Option<&str> {
        match &self.weights {
            Weights::Peft { config, .. } => config.fingerprint.as_deref(),
            Weights::Gguf { fingerprint, .. } => fingerprint.as_deref(),
        }
    }

    pub(super) fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        match &self.weights {
            Weights::Peft { file, .. } => file.tensor(name),
            Weights::Gguf { file, .. } => file.tensor(name),
        }
    }

    pub(super) fn is_gguf(&self) -> bool {
        matches!(self.weights, Weights::Gguf { .. })
    }

    pub(super) fn use_dora(&self) -> bool {
        self.additions.values().any(|addition| addition.magnitude.is_some())
    }

    pub(super) fn use_rslora(&self) -> bool {
        matches!(&self.weights, Weights::Peft { config, .. } if config.use_rslora)
    }
}

/// The columns of B.
fn rank_of(b: &TensorView<'_>) -> usize {
    b.cols
}

/// The module and the part that a tensor of a PEFT file is.
fn peft_part(name: &str) -> Option<(Site, Part)> {
    let name = name.strip_prefix("base_model.model.")?;
    let suffixes = [
        (".lora_A.weight", Part::A),
        (".lora_B.weight", Part::B),
        (".lora_embedding_A", Part::A),
        (".lora_embedding_B", Part::B),
        (".lora_magnitude_vector", Part::Magnitude),
        // PEFT before 0.12.
        (".lora_magnitude_vector.weight", Part::Magnitude),
        (".base_layer.weight", Part::Copy),
        (".modules_to_save.weight", Part::Whole),
        (".weight", Part::Whole),
    ];
    suffixes.into_iter().find_map(|(suffix, part)| {
        let site = Site::from_path(name.strip_suffix(suffix)?)?;
        // Only the embedding's tensors have these names, and it has no others.
        let is_embedding = suffix.starts_with(".lora_embedding");
        let is_linear = matches!(suffix, ".lora_A.weight" | ".lora_B.weight");
        let fits = if site == Site::Embedding { !is_linear } else { !is_embedding };
        fits.then_some((site, part))
    })
}

fn both(site: Site, a: Option<String>, b: Option<String>) -> Result<(String, String)> {
    match (a, b) {
        (Some(a), Some(b)) => Ok((a, b)),
        (a, _) => refuse(format!("`{site}` must have A and B; {} is missing", if a.is_none() { "A" } else { "B" })),
    }
}

fn unknown(name: &str) -> String {
    format!(
        "the tensor `{}` is of no part of an adapter that Qern runs; leaving it out would change the adapter's answers",
        shorten(name)
    )
}

fn refuse<T>(message: String) -> Result<T> {
    Err(Error::Adapter(message))
}
