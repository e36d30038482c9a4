//! The places of a model that an adapter can change, by the checkpoint's module names. No weights here.

use crate::config::ModelConfig;
use std::fmt;

/// A linear layer of a decoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Projection {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

/// A module that an adapter can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// The embedding, `model.embed_tokens`.
    Embedding,
    /// A linear layer of a decoder layer.
    Layer(usize, Projection),
    /// The output projection, `lm_head`.
    Head,
}

impl Projection {
    /// Every projection, in the order of a forward pass.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// The module's path within its layer.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// The last part of the path, as `target_modules` names it.
    pub fn name(self) -> &'static str {
        let path = self.path();
        path.rsplit_once('.').map_or(path, |(_, name)| name)
    }
}

impl Site {
    /// The place with this module path, such as `model.layers.3.self_attn.q_proj`.
    pub fn from_path(path: &str) -> Option<Self> {
        match path {
            "model.embed_tokens" => return Some(Self::Embedding),
            "lm_head" => return Some(Self::Head),
            _ => {}
        }
        let (layer, module) = path.strip_prefix("model.layers.")?.split_once('.')?;
        let projection = Projection::ALL.into_iter().find(|projection| projection.path() == module)?;
        // One spelling for each: `+3` and `03` are other names.
        let id: u32 = layer.parse().ok()?;
        (id.to_string() == layer).then_some(Self::Layer(id as usize, projection))
    }

    /// The last part of the path, as `target_modules` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embed_tokens",
            Self::Layer(_, projection) => projection.name(),
            Self::Head => "lm_head",
        }
    }

    /// (outputs, inputs) of the module; the embedding's are (hidden, vocabulary). `None` where the model has no such layer.
    pub fn shape(self, config: &ModelConfig) -> Option<(usize, usize)> {
        let ModelConfig { hidden_size: hidden, intermediate_size: intermediate, vocab_size: vocab, .. } = *config;
        let projection = match self {
            Self::Embedding => return Some((hidden, vocab)),
            Self::Head => return Some((vocab, hidden)),
            Self::Layer(layer, _) if layer >= config.num_layers => return None,
            Self::Layer(_, projection) => projection,
        };
        Some(match projection {
            Projection::Q => (config.q_size(), hidden),
            Projection::K | Projection::V => (config.kv_size(), hidden),
            Projection::O => (hidden, config.q_size()),
            Projection::Gate | Projection::Up => (intermediate, hidden),
            Projection::Down => (hidden, intermediate),
        })
    }

    /// Every place of a model, in the order of a forward pass.
    pub fn all(config: &ModelConfig) -> impl Iterator<Item = Self> {
        let layers = (0..config.num_layers).flat_map(|i| Projection::ALL.into_iter().map(move |p| Self::Layer(i, p)));
        std::iter::once(Self::Embedding).chain(layers).chain(std::iter::once(Self::Head))
    }
}

/// The module path.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("model.embed_tokens"),
            Self::Layer(layer, projection) => write!(f, "model.layers.{layer}.{}", projection.path()),
            Self::Head => f.write_str("lm_head"),
        }
    }
}
