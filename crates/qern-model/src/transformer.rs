//! The transformer: token ids in, logits out. Llama, Qwen2, Qwen3, SmolLM and Mistral are this one file under different
//! configurations. How weights got here is in `weights`; which sequences run together is the engine's business.

use crate::batch::{AdapterId, BatchSequence, PAGE_LEN};
use crate::config::{ModelConfig, RopeConfig};
use crate::error::{Error, Result};
use crate::inputs::Inputs;
use crate::weights::{Layer, Linear, LinearView, Weights};
use qern_kernels::attention::{AttentionInput, AttentionParams, AttentionScratch, AttentionSequence, attention};
use qern_kernels::float_buffer::FloatBuffer;
use qern_kernels::isa::Isa;
use qern_kernels::kv::{KvFormat, KvGeometry, KvPages, KvRows, KvSlot};
use qern_kernels::matmul::{Output, Product, matmul};
use qern_kernels::norm::rms_norm;
use qern_kernels::pool::Pool;
use qern_kernels::rope::{HeadNorm, Rope, RopeParams, Rotation};
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
    /// order; hidden states asked for are left in [`Scratch::hidden`]. The logits of a sequence have the same bits whatever else is in the batch.
    pub fn forward<'s>(&self, batch: &[BatchSequence<'_>], kv: &mut KvPages, scratch: &'s mut Scratch) -> Result<&'s [f32]> {
        self.forward_observed(batch, kv, scratch, None)
    }

    /// `forward`, showing the residual stream as it grows.
    pub fn forward_observed<'s>(
        &self,
        batch: &[BatchSequence<'_>],
        kv: &mut KvPages,
        scratch: &'s mut Scratch,
        mut observer: Option<Observer<'_>>,
    ) -> Result<&'s [f32]> {
        self.check(batch, kv)?;
        self.start(batch, scratch)?;
        let mut observe = |layer: usize, x: &[f32]| {
            if let Some(observer) = &mut observer {
                observer(layer, x);
            }
        };
        observe(0, &scratch.x);
        for (layer_id, layer) in self.weights.layers.iter().enumerate() {
            self.attend(layer_id, layer, batch, kv, scratch)?;
            if layer_id + 1 == self.weights.layers.len() {
                keep_output_rows(batch, self.config.hidden_size, &mut scratch.x);
                keep_output_rows(batch, self.config.q_size(), &mut scratch.attended);
                if scratch.x.is_empty() {
                    return Ok(&[]);
                }
            }
            self.add_projected(&layer.o_proj, &scratch.attended, &mut scratch.inputs, &mut scratch.x)?;
            self.feed_forward(layer, scratch)?;
            observe(layer_id + 1, &scratch.x);
        }
        self.norm(&self.weights.norm, &scratch.x, &mut scratch.normed)?;
        take_hidden_rows(batch, self.config.hidden_size, &mut scratch.normed, &mut scratch.hidden)?;
        if scratch.normed.is_empty() {
            return Ok(&[]);
        }
        let head = self.weights.lm_head();
        scratch.logits.resize(scratch.normed.len() / self.config.hidden_size * self.config.vocab_size)?;
        self.project(&[head], &scratch.normed, &mut scratch.inputs, vec![&mut scratch.logits])?;
        Ok(&scratch.logits)
    }

    /// Embeds the tokens and looks up their rotations and slots.
    fn start(&self, batch: &[BatchSequence<'_>], scratch: &mut Scratch) -> Result<()> {
        let hidden = self.config.hidden_size;
        let tokens: Vec<usize> = batch.iter().flat_map(|s| s.tokens.iter().map(|&t| t as usize)).collect();
        scratch.hidden.truncate(0);
        scratch.logits.truncate(0);
        scratch.x.resize(tokens.len() * hidden)?;
        self.weights.embed_tokens.dequantize_rows(&self.pool, self.isa, &tokens, &mut scratch.x);
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
        layer: &Layer,
        batch: &[BatchSequence<'_>],
        kv: &mut KvPages,
        s: &mut Scratch,
    ) -> Result<()> {
        let config = &self.config;
        let num_tokens = s.slots.len();
        self.norm(&layer.input_layernorm, &s.x, &mut s.normed)?;
        s.q.resize(num_tokens * config.q_size())?;
        s.k.resize(num_tokens * config.kv_size())?;
        s.v.resize(num_tokens * config.kv_size())?;
        let qkv = [layer.q_proj.view(), layer.k_proj.view(), layer.v_proj.view()];
        self.project(&qkv, &s.normed, &mut s.inputs, vec![&mut s.q, &mut s.k, &mut s.v])?;

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
    fn feed_forward(&self, layer: &Layer, s: &mut Scratch) -> Result<()> {
        let num_tokens = s.x.len() / self.config.hidden_size;
        self.norm(&layer.post_attention_layernorm, &s.x, &mut s.normed)?;
        s.gated.resize(num_tokens * self.config.intermediate_size)?;
        let (gate, up) = (&layer.gate_proj.weight, &layer.up_proj.weight);
        s.inputs.prepare(&self.pool, self.isa, &[gate, up], &s.normed)?;
        let output = Output::SwiGlu { up, activations: s.inputs.of(up), out: &mut s.gated };
        matmul(&self.pool, self.isa, vec![Product { weights: gate, activations: s.inputs.of(gate), output }]);
        self.add_projected(&layer.down_proj, &s.gated, &mut s.inputs, &mut s.x)
    }

    /// `x += linear(input)`.
    fn add_projected(&self, linear: &Linear, input: &[f32], inputs: &mut Inputs, x: &mut [f32]) -> Result<()> {
        inputs.prepare(&self.pool, self.isa, &[&linear.weight], input)?;
        let activations = inputs.of(&linear.weight);
        matmul(&self.pool, self.isa, vec![Product { weights: &linear.weight, activations, output: Output::Add { out: x } }]);
        Ok(())
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
    fn check(&self, batch: &[BatchSequence<'_>], kv: &KvPages) -> Result<()> {
        let refuse = |what: String| Err(Error::Batch(what));
        for sequence in batch {
            if let Some(AdapterId(id)) = sequence.adapter {
                return refuse(format!("adapter ids must be of loaded adapters; given {id}"));
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

/// Keeps the rows (`[num_tokens, width]`) that are asked for: the last layer computes no more than those.
fn keep_output_rows(batch: &[BatchSequence<'_>], width: usize, rows: &mut FloatBuffer) {
    let (mut from, mut to) = (0, 0);
    for sequence in batch {
        let num_tokens = sequence.tokens.len();
        let num_rows = sequence.logits.num_rows(num_tokens) + sequence.logits.num_hidden_rows(num_tokens);
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
