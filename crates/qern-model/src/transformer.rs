//! The transformer: token ids in, logits out. Llama, Qwen2, Qwen3, SmolLM and Mistral are this one file under different
//! configurations. How weights got here is in `weights`; which sequences run together is the engine's business.

use crate::batch::{BatchSequence, PAGE_LEN};
use crate::config::{ModelConfig, RopeConfig};
use crate::error::{Error, Result};
use crate::inputs::Inputs;
use crate::lora::apply::{AdapterRows, Target};
use crate::lora::{AdapterSet, Projection, Site};
use crate::weights::{Layer, LinearView, Weights};
use qern_kernels::attention::{AttentionInput, AttentionParams, AttentionScratch, AttentionSequence, attention};
use qern_kernels::float_buffer::FloatBuffer;
use qern_kernels::isa::Isa;
use qern_kernels::kv::{KvFormat, KvGeometry, KvPages, KvRows, KvSlot};
use qern_kernels::low_rank;
use qern_kernels::matmul::{Output, Product, matmul};
use qern_kernels::norm::rms_norm;
use qern_kernels::pool::Pool;
use qern_kernels::rope::{HeadNorm, Rope, RopeParams, Rotation};
use qern_kernels::swiglu::swiglu;
use std::sync::Arc;

/// A model's weights and what is needed to run them. Shared by everything that runs the model.
#[derive(Debug)]
pub struct Transformer {
    config: ModelConfig,
    weights: Weights,
    rope: Rope,
    pool: Arc<Pool>,
    isa: Isa,
}

/// Buffers of a forward pass, kept from step to step.
#[derive(Debug, Default)]
pub struct Scratch {
    x: FloatBuffer,        // [num_tokens, hidden]: the residual stream
    normed: FloatBuffer,   // [num_tokens, hidden]
    q: FloatBuffer,        // [num_tokens, num_heads, head_dim]
    k: FloatBuffer,        // [num_tokens, num_kv_heads, head_dim]
    v: FloatBuffer,        // [num_tokens, num_kv_heads, head_dim]
    attended: FloatBuffer, // [num_tokens, num_heads, head_dim]
    gated: FloatBuffer,    // [num_tokens, intermediate]
    cos: FloatBuffer,      // [num_tokens, rotated / 2]
    sin: FloatBuffer,      // [num_tokens, rotated / 2]
    hidden: FloatBuffer,   // [num_hidden_rows, hidden]
    logits: FloatBuffer,   // [num_logit_rows, vocab]
    slots: Vec<KvSlot>,    // [num_tokens]
    pages: Vec<Vec<u32>>,  // [num_sequences][pages]
    gate: FloatBuffer,     // [num_tokens, intermediate]; used where adapters change gate_proj or up_proj
    up: FloatBuffer,       // [num_tokens, intermediate]; as `gate`
    added: FloatBuffer,    // [num_tokens, hidden]; used where adapters change o_proj or down_proj
    low_rank: FloatBuffer, // [num_tokens, rank], by adapter and layer
    inputs: Inputs,
    attention: AttentionScratch,
}

impl Scratch {
    /// The logits that the last forward pass was asked for: `[rows, vocab]` in batch order.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// The hidden states, after the last norm, that the last forward pass was asked for: `[rows, hidden]` in batch order.
    pub fn hidden(&self) -> &[f32] {
        &self.hidden
    }
}

/// What a forward pass may be given beside its batch.
#[derive(Default)]
pub struct ForwardOptions<'a> {
    /// The adapters that the batch's sequences may name.
    pub adapters: Option<&'a AdapterSet>,
    /// Who watches the residual stream.
    pub observer: Option<Observer<'a>>,
}

/// Called with the residual stream, `[num_tokens, hidden]`: 0 for the embeddings, then after each layer. After the last one only
/// with the rows that are asked for, and not at all where none are.
pub type Observer<'a> = &'a mut dyn FnMut(usize, &[f32]);

impl Transformer {
    /// Puts weights together with what runs them.
    pub fn new(config: ModelConfig, weights: Weights, pool: Arc<Pool>, isa: Isa) -> Result<Self> {
        let RopeConfig { theta, num_dims, layout, scaling } = config.rope.clone();
        let params = RopeParams { head_dim: config.head_dim, num_dims, theta, layout, scaling };
        let rope = Rope::new(params).map_err(|error| Error::Config(error.to_string()))?;
        Ok(Self { config, weights, rope, pool, isa })
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The instruction set that it runs on.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The threads that it runs on.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The shape of its keys and values.
    pub fn kv_geometry(&self, format: KvFormat) -> KvGeometry {
        let ModelConfig { num_layers, num_kv_heads, head_dim, .. } = self.config;
        KvGeometry { num_layers, num_kv_heads, head_dim, format }
    }

    /// Runs a ragged batch: stores keys and values in its pages and returns the logits asked for, `[rows, vocab]` in batch
    /// order; hidden states asked for are left in [`Scratch::hidden`]. The logits of a sequence have the same bits whatever else is
    /// in the batch.
    pub fn forward<'s>(&self, batch: &[BatchSequence<'_>], kv: &mut KvPages, scratch: &'s mut Scratch) -> Result<&'s [f32]> {
        self.forward_with(batch, kv, scratch, ForwardOptions::default())
    }

    /// `forward` with adapters, or showing the residual stream as it grows.
    pub fn forward_with<'s>(
        &self,
        batch: &[BatchSequence<'_>],
        kv: &mut KvPages,
        scratch: &'s mut Scratch,
        options: ForwardOptions<'_>,
    ) -> Result<&'s [f32]> {
        static NO_ADAPTERS: AdapterSet = AdapterSet::new();
        let ForwardOptions { adapters, mut observer } = options;
        let adapters = adapters.unwrap_or(&NO_ADAPTERS);
        self.check(batch, adapters, kv)?;
        let machine = (&*self.pool, self.isa);
        let mut adapted = AdapterRows::new(batch, adapters, |sequence| sequence.tokens.len(), machine);
        self.start(batch, &adapted, scratch)?;
        let mut observe = |layer: usize, x: &[f32]| {
            if let Some(observer) = &mut observer {
                observer(layer, x);
            }
        };
        observe(0, &scratch.x);
        for (layer_id, layer) in self.weights.layers.iter().enumerate() {
            self.attend(layer_id, batch, &adapted, kv, scratch)?;
            if layer_id + 1 == self.weights.layers.len() {
                keep_output_rows(batch, self.config.hidden_size, &mut scratch.x);
                keep_output_rows(batch, self.config.q_size(), &mut scratch.attended);
                if scratch.x.is_empty() {
                    return Ok(&[]);
                }
                adapted = AdapterRows::new(batch, adapters, num_output_rows, machine);
            }
            self.add_projected(Site::Layer(layer_id, Projection::O), layer, &adapted, scratch)?;
            self.feed_forward(layer_id, layer, &adapted, scratch)?;
            observe(layer_id + 1, &scratch.x);
        }
        self.norm(&self.weights.norm, &scratch.x, &mut scratch.normed)?;
        take_hidden_rows(batch, self.config.hidden_size, &mut scratch.normed, &mut scratch.hidden)?;
        if scratch.normed.is_empty() {
            return Ok(&[]);
        }
        adapted = AdapterRows::new(batch, adapters, |s| s.logits.num_rows(s.tokens.len()), machine);
        self.logits(&adapted, scratch)?;
        Ok(&scratch.logits)
    }

    /// Embeds the tokens and looks up their rotations and slots.
    fn start(&self, batch: &[BatchSequence<'_>], adapted: &AdapterRows<'_>, scratch: &mut Scratch) -> Result<()> {
        let hidden = self.config.hidden_size;
        let tokens: Vec<usize> = batch.iter().flat_map(|s| s.tokens.iter().map(|&t| t as usize)).collect();
        scratch.hidden.truncate(0);
        scratch.logits.truncate(0);
        scratch.x.resize(tokens.len() * hidden)?;
        self.weights.embed_tokens.dequantize_rows(&self.pool, self.isa, &tokens, &mut scratch.x);
        adapted.embed(&mut scratch.low_rank, &tokens, &mut scratch.x)?;
        let half = self.config.rope.num_dims / 2;
        scratch.cos.resize(tokens.len() * half)?;
        scratch.sin.resize(tokens.len() * half)?;
        scratch.slots.clear();
        let mut rows = scratch.cos.chunks_exact_mut(half).zip(scratch.sin.chunks_exact_mut(half));
        for sequence in batch {
            for position in sequence.position..sequence.position + sequence.tokens.len() {
                let (cos, sin) = rows.next().expect("one row a token");
                self.rope.cos_sin(position, cos, sin);
                let page = sequence.pages[position / PAGE_LEN].0;
                scratch.slots.push(KvSlot { page, offset: (position % PAGE_LEN) as u32 });
            }
        }
        scratch.pages.clear();
        scratch.pages.extend(batch.iter().map(|s| s.pages.iter().map(|p| p.0).collect()));
        Ok(())
    }

    /// `attended = attention(norm(x))`, without the output projection.
    fn attend(
        &self,
        layer_id: usize,
        batch: &[BatchSequence<'_>],
        adapted: &AdapterRows<'_>,
        kv: &mut KvPages,
        s: &mut Scratch,
    ) -> Result<()> {
        let (config, layer) = (&self.config, &self.weights.layers[layer_id]);
        let num_tokens = s.slots.len();
        self.norm(&layer.input_layernorm, &s.x, &mut s.normed)?;
        s.q.resize(num_tokens * config.q_size())?;
        s.k.resize(num_tokens * config.kv_size())?;
        s.v.resize(num_tokens * config.kv_size())?;
        let qkv = [layer.q_proj.view(), layer.k_proj.view(), layer.v_proj.view()];
        self.project(&qkv, &s.normed, &mut s.inputs, vec![&mut s.q, &mut s.k, &mut s.v])?;
        let target = |projection, out, bias| Target { site: Site::Layer(layer_id, projection), x: &s.normed, out, bias };
        let targets = vec![
            target(Projection::Q, &mut s.q, qkv[0].bias),
            target(Projection::K, &mut s.k, qkv[1].bias),
            target(Projection::V, &mut s.v, qkv[2].bias),
        ];
        adapted.add(&mut s.low_rank, targets)?;

        let rotate = |heads: &mut [f32], num_heads, norm: &Option<Vec<f32>>| {
            let norm = norm.as_deref().map(|weight| HeadNorm { weight, eps: config.rms_norm_eps });
            self.rope.apply(&self.pool, &Rotation { cos: &s.cos, sin: &s.sin, num_heads, norm }, heads);
        };
        rotate(&mut s.q, config.num_heads, &layer.q_norm);
        rotate(&mut s.k, config.num_kv_heads, &layer.k_norm);
        kv.append(&self.pool, layer_id, &KvRows { slots: &s.slots, k: &s.k, v: &s.v });

        s.attended.resize(num_tokens * config.q_size())?;
        let mut first_row = 0;
        let sequences: Vec<_> = batch
            .iter()
            .zip(&s.pages)
            .map(|(sequence, pages)| {
                let num_tokens = sequence.tokens.len();
                first_row += num_tokens;
                AttentionSequence { pages, first_row: first_row - num_tokens, num_tokens, position: sequence.position }
            })
            .collect();
        let params = AttentionParams {
            num_heads: config.num_heads,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            sliding_window: config.sliding_window,
        };
        let input = AttentionInput { pages: kv, layer: layer_id, queries: &s.q, sequences: &sequences, params };
        attention(&self.pool, &mut s.attention, &input, &mut s.attended)?;
        Ok(())
    }

    /// `x += down_proj(silu(gate_proj(norm(x))) * up_proj(norm(x)))`.
    fn feed_forward(&self, layer_id: usize, layer: &Layer, adapted: &AdapterRows<'_>, s: &mut Scratch) -> Result<()> {
        let len = s.x.len() / self.config.hidden_size * self.config.intermediate_size;
        self.norm(&layer.post_attention_layernorm, &s.x, &mut s.normed)?;
        s.gated.resize(len)?;
        let sites = [Projection::Gate, Projection::Up].map(|projection| Site::Layer(layer_id, projection));
        if sites.into_iter().any(|site| adapted.change(site)) {
            // What adapters add comes before the activation, so gate and up are kept. The bits are those of the fused product.
            s.gate.resize(len)?;
            s.up.resize(len)?;
            let linears = [layer.gate_proj.view(), layer.up_proj.view()];
            self.project(&linears, &s.normed, &mut s.inputs, vec![&mut s.gate, &mut s.up])?;
            let target = |site, out| Target { site, x: &s.normed, out, bias: None };
            adapted.add(&mut s.low_rank, vec![target(sites[0], &mut s.gate), target(sites[1], &mut s.up)])?;
            swiglu(&self.pool, &s.gate, &s.up, &mut s.gated);
        } else {
            let (gate, up) = (&layer.gate_proj.weight, &layer.up_proj.weight);
            s.inputs.prepare(&self.pool, self.isa, &[gate, up], &s.normed)?;
            let output = Output::SwiGlu { up, activations: s.inputs.of(up), out: &mut s.gated };
            matmul(&self.pool, self.isa, vec![Product { weights: gate, activations: s.inputs.of(gate), output }]);
        }
        self.add_projected(Site::Layer(layer_id, Projection::Down), layer, adapted, s)
    }

    /// `x += o_proj(attended)` or `x += down_proj(gated)`, as the site says.
    fn add_projected(&self, site: Site, layer: &Layer, adapted: &AdapterRows<'_>, s: &mut Scratch) -> Result<()> {
        let (linear, input) = match site {
            Site::Layer(_, Projection::O) => (&layer.o_proj, &s.attended),
            _ => (&layer.down_proj, &s.gated),
        };
        if adapted.change(site) {
            // The whole output first, as DoRA rescales it; then the sum, which has the bits of the fused one.
            s.added.resize(s.x.len())?;
            self.project(&[linear.view()], input, &mut s.inputs, vec![&mut s.added])?;
            adapted.add(&mut s.low_rank, vec![Target { site, x: input, out: &mut s.added, bias: None }])?;
            low_rank::add(&self.pool, &s.added, &mut s.x);
            return Ok(());
        }
        s.inputs.prepare(&self.pool, self.isa, &[&linear.weight], input)?;
        let output = Output::Add { out: &mut s.x };
        matmul(&self.pool, self.isa, vec![Product { weights: &linear.weight, activations: s.inputs.of(&linear.weight), output }]);
        Ok(())
    }

    /// `logits = lm_head(normed)`.
    fn logits(&self, adapted: &AdapterRows<'_>, s: &mut Scratch) -> Result<()> {
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        s.logits.resize(s.normed.len() / hidden * vocab)?;
        self.project(&[self.weights.lm_head()], &s.normed, &mut s.inputs, vec![&mut s.logits])?;
        for (rows, weights) in adapted.new_heads() {
            s.inputs.prepare(&self.pool, self.isa, &[weights], &s.normed[rows.start * hidden..rows.end * hidden])?;
            let output = Output::Store { out: &mut s.logits[rows.start * vocab..rows.end * vocab], bias: None };
            matmul(&self.pool, self.isa, vec![Product { weights, activations: s.inputs.of(weights), output }]);
        }
        adapted.add(&mut s.low_rank, vec![Target { site: Site::Head, x: &s.normed, out: &mut s.logits, bias: None }])
    }

    /// Each of `outs` is one of `linears` of the input.
    fn project(&self, linears: &[LinearView<'_>], input: &[f32], inputs: &mut Inputs, outs: Vec<&mut FloatBuffer>) -> Result<()> {
        let weights: Vec<_> = linears.iter().map(|l| l.weight).collect();
        inputs.prepare(&self.pool, self.isa, &weights, input)?;
        let products = linears.iter().zip(outs).map(|(l, out)| Product {
            weights: l.weight,
            activations: inputs.of(l.weight),
            output: Output::Store { out, bias: l.bias },
        });
        matmul(&self.pool, self.isa, products.collect());
        Ok(())
    }

    fn norm(&self, weight: &[f32], x: &[f32], out: &mut FloatBuffer) -> Result<()> {
        out.resize(x.len())?;
        rms_norm(&self.pool, x, weight, self.config.rms_norm_eps, out);
        Ok(())
    }

    /// A batch comes from a scheduler, but a wrong one must not reach the kernels' asserts.
    fn check(&self, batch: &[BatchSequence<'_>], adapters: &AdapterSet, kv: &KvPages) -> Result<()> {
        let refuse = |what: String| Err(Error::Batch(what));
        for sequence in batch {
            if let Some(id) = sequence.adapter.filter(|&id| adapters.get(id).is_none()) {
                return refuse(format!("adapter ids must be of loaded adapters; given {}", id.0));
            }
            let end = sequence.position.saturating_add(sequence.tokens.len());
            if let Some(token) = sequence.tokens.iter().find(|&&t| t as usize >= self.config.vocab_size) {
                return refuse(format!("token ids must be below the vocabulary's {}; given {token}", self.config.vocab_size));
            }
            if end > self.config.max_positions {
                return refuse(format!("positions must stay below {}; given {end}", self.config.max_positions));
            }
            if sequence.pages.len() * PAGE_LEN < end {
                return refuse(format!("{end} positions need {} pages; given {}", end.div_ceil(PAGE_LEN), sequence.pages.len()));
            }
            if let Some(page) = sequence.pages.iter().find(|p| p.0 as usize >= kv.num_pages()) {
                return refuse(format!("page ids must be below {}; given {}", kv.num_pages(), page.0));
            }
        }
        Ok(())
    }
}

/// Rows of a sequence that are asked for, as logits or as hidden states.
fn num_output_rows(sequence: &BatchSequence<'_>) -> usize {
    let num_tokens = sequence.tokens.len();
    sequence.logits.num_rows(num_tokens) + sequence.logits.num_hidden_rows(num_tokens)
}

/// Keeps the rows (`[num_tokens, width]`) that are asked for: the last layer computes no more than those.
fn keep_output_rows(batch: &[BatchSequence<'_>], width: usize, rows: &mut FloatBuffer) {
    let (mut from, mut to) = (0, 0);
    for sequence in batch {
        let num_tokens = sequence.tokens.len();
        let num_rows = num_output_rows(sequence);
        let first = from + num_tokens - num_rows;
        rows.copy_within(first * width..(first + num_rows) * width, to * width);
        from += num_tokens;
        to += num_rows;
    }
    rows.truncate(to * width);
}

/// Moves the rows asked for as hidden states out of the output rows `[rows, width]`; those that go on to the head stay.
fn take_hidden_rows(batch: &[BatchSequence<'_>], width: usize, rows: &mut FloatBuffer, hidden: &mut FloatBuffer) -> Result<()> {
    hidden.resize(width * batch.iter().map(|s| s.logits.num_hidden_rows(s.tokens.len())).sum::<usize>())?;
    let (mut from, mut kept, mut taken) = (0, 0, 0);
    for sequence in batch {
        let num_tokens = sequence.tokens.len();
        let num_hidden = width * sequence.logits.num_hidden_rows(num_tokens);
        hidden[taken..taken + num_hidden].copy_from_slice(&rows[from..from + num_hidden]);
        taken += num_hidden;
        from += num_hidden;
        let num_kept = width * sequence.logits.num_rows(num_tokens);
        rows.copy_within(from..from + num_kept, kept);
        kept += num_kept;
        from += num_kept;
    }
    rows.truncate(kept);
    Ok(())
}
