//! LoRA adapters: read from PEFT folders and llama.cpp's adapter GGUF, checked against a base, and kept as the kernels multiply
//! them. The base's weights stay as they are: an adapter adds to the products of the rows that run with it (`apply`).
//!
//! ```text
//! AdapterFile (what the files say) -> Adapter (of one base's shape) -> AdapterSet (those that a running model has)
//! ```
//!
//! Training owns A and B as floats: `Adapter::new` packs F32 without loss, so what is served is what was trained.

pub(crate) mod apply;
mod bind;
mod file;
mod fit;
mod peft_config;
mod set;
mod site;
mod summary;

pub use file::AdapterFile;
pub use fit::FitOptions;
pub use set::AdapterSet;
pub use site::{Projection, Site};
pub use summary::{SiteSummary, Summary};

use std::path::Path;
use std::sync::OnceLock;

use qern_kernels::WeightFormat;
use qern_kernels::arena::Arena;
use qern_kernels::matrix::PackedMatrix;
use qern_kernels::pool::Pool;

use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// An adapter in memory, in the shape of one base.
#[derive(Debug)]
pub struct Adapter {
    config: ModelConfig,
    layers: Vec<[Option<Addition>; 7]>, // [num_layers][Projection]
    head: Option<Addition>,
    embedding: Option<EmbeddingAddition>,
    /// What replaces the base's embedding for the adapter's rows, `[vocab, hidden]`.
    new_embedding: Option<PackedMatrix>,
    /// What replaces the base's output projection for the adapter's rows, `[vocab, hidden]`.
    new_head: Option<PackedMatrix>,
    /// The base that it was trained on, as recorded.
    fingerprint: Option<String>,
    notes: Vec<String>,
    /// The fingerprint of the base that it was fitted to.
    fitted: OnceLock<crate::fingerprint::Fingerprint>,
}

/// `scale * B A`, added to a linear layer.
#[derive(Debug)]
pub struct Addition {
    a: PackedMatrix, // [rank, in]
    b: PackedMatrix, // [out, rank], its rows in the base's order
    scale: f32,
    /// DoRA's, `[out]`.
    magnitude: Option<Vec<f32>>,
    /// The magnitude over the norm of `W + scale B A`; known once the adapter has met its base's weights. `[out]`
    gain: OnceLock<Vec<f32>>,
}

/// The same for the embedding, whose A is looked up by token.
#[derive(Debug)]
struct EmbeddingAddition {
    a: Vec<f32>,     // [vocab, rank]
    b: PackedMatrix, // [hidden, rank]
    scale: f32,
}

/// A low-rank addition as training owns it.
#[derive(Clone, Debug)]
pub struct AdapterTensors {
    /// The linear layer that it changes; not the embedding.
    pub site: Site,
    /// Rows of A, columns of B.
    pub rank: usize,
    /// A, `[rank, in]`.
    pub a: Vec<f32>,
    /// B, `[out, rank]`, its rows in the order of the base as loaded.
    pub b: Vec<f32>,
    /// DoRA's magnitudes, `[out]`.
    pub magnitude: Option<Vec<f32>>,
    /// What `B A` is multiplied with: alpha / rank, or alpha / sqrt(rank).
    pub scale: f32,
}

impl Adapter {
    /// Opens an adapter and checks it against the base that `config` describes: every shape by name, every value finite.
    pub fn open(path: impl AsRef<Path>, config: &ModelConfig) -> Result<Self> {
        Self::from_file(&AdapterFile::open(path)?, config)
    }

    /// Reads the weights of an opened file.
    pub fn from_file(file: &AdapterFile, config: &ModelConfig) -> Result<Self> {
        bind::bind(file, config).map_err(|error| error.in_file(file.path()))
    }

    /// An adapter from floats in memory.
    pub fn new(config: &ModelConfig, tensors: Vec<AdapterTensors>) -> Result<Self> {
        let mut adapter = Self::empty(config);
        let (pool, arena) = (Pool::new(1), Arena::new());
        let pack = |site: Site, rows: usize, cols: usize, values: &[f32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            PackedMatrix::pack(&pool, &arena, WeightFormat::F32, rows, cols, &bytes)
                .map_err(|error| Error::Adapter(format!("`{site}`: {error}")))
        };
        for AdapterTensors { site, rank, a, b, magnitude, scale } in tensors {
            let (outputs, inputs) = site
                .shape(config)
                .filter(|_| site != Site::Embedding)
                .ok_or_else(|| Error::Adapter(format!("`{site}` must be a linear layer of the base")))?;
            if magnitude.as_ref().is_some_and(|magnitude| magnitude.len() != outputs) {
                return Err(Error::Adapter(format!("`{site}`: there must be {outputs} magnitudes")));
            }
            let (a, b) = (pack(site, rank, inputs, &a)?, pack(site, outputs, rank, &b)?);
            *adapter.slot(site) = Some(Addition { a, b, scale, magnitude, gain: OnceLock::new() });
        }
        Ok(adapter)
    }

    fn empty(config: &ModelConfig) -> Self {
        Self {
            config: config.clone(),
            layers: (0..config.num_layers).map(|_| Default::default()).collect(),
            head: None,
            embedding: None,
            new_embedding: None,
            new_head: None,
            fingerprint: None,
            notes: Vec::new(),
            fitted: OnceLock::new(),
        }
    }

    /// Where the addition to a linear layer of the base is kept.
    fn slot(&mut self, site: Site) -> &mut Option<Addition> {
        match site {
            Site::Layer(layer, projection) => &mut self.layers[layer][projection as usize],
            Site::Head | Site::Embedding => &mut self.head,
        }
    }

    /// The addition to a linear layer.
    pub(crate) fn at(&self, site: Site) -> Option<&Addition> {
        match site {
            Site::Layer(layer, projection) => self.layers.get(layer)?[projection as usize].as_ref(),
            Site::Head => self.head.as_ref(),
            Site::Embedding => None,
        }
    }

    /// Every addition to a linear layer, in the order of a forward pass.
    pub fn additions(&self) -> impl Iterator<Item = (Site, &Addition)> {
        let layers = self.layers.iter().enumerate().flat_map(|(i, layer)| {
            Projection::ALL.into_iter().filter_map(move |p| Some((Site::Layer(i, p), layer[p as usize].as_ref()?)))
        });
        layers.chain(self.head.as_ref().map(|head| (Site::Head, head)))
    }

    /// Whether it changes more than linear layers: adds to the embedding, or replaces embedding or head.
    pub fn replaces_tensors(&self) -> bool {
        self.embedding.is_some() || self.new_embedding.is_some() || self.new_head.is_some()
    }

    /// The configuration of the base that it fits.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What the reader of its files should know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Bytes of memory that its weights take.
    pub fn bytes(&self) -> usize {
        let additions: usize = self.additions().map(|(_, addition)| addition.bytes()).sum();
        let embedding = self.embedding.as_ref().map_or(0, |e| 4 * e.a.len() + e.b.bytes());
        additions
            + embedding
            + [&self.new_embedding, &self.new_head].into_iter().flatten().map(PackedMatrix::bytes).sum::<usize>()
    }
}

impl Addition {
    /// A, `[rank, in]`.
    pub fn a(&self) -> &PackedMatrix {
        &self.a
    }

    /// B, `[out, rank]`, its rows in the base's order.
    pub fn b(&self) -> &PackedMatrix {
        &self.b
    }

    /// What `B A` is multiplied with.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// DoRA's magnitudes, `[out]`.
    pub fn magnitude(&self) -> Option<&[f32]> {
        self.magnitude.as_deref()
    }

    fn bytes(&self) -> usize {
        self.a.bytes() + self.b.bytes() + self.magnitude.as_ref().map_or(0, |magnitude| 8 * magnitude.len())
    }
}
