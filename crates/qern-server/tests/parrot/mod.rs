//! A model whose answers are known, behind the real engine, tokenizer and template. Every byte is a token; its "KV" are the
//! tokens themselves, so it sees exactly what the engine put into its pages. The program's tests use it too.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use qern_engine::{
    AdapterId, BatchSequence, BoxError, Engine, EngineConfig, EngineHandle, LanguageModel, LogitsFor, PAGE_LEN, PageId, Rows,
    TokenId, TokenText,
};
use qern_model::config::{Architecture, ModelConfig, RopeConfig, RopeLayout, RopeScaling};
use qern_model::lora::Adapter;
use qern_model::tokenizer::Tokenizer;
use serde_json::{Map, json};

pub const IM_START: TokenId = 256;
pub const IM_END: TokenId = 257;
pub const VOCAB_SIZE: usize = 258;
const NUM_PAGES: usize = 64;
/// Hidden states: how many bytes were seen, and the last byte.
const HIDDEN_SIZE: usize = 2;

/// The engine of a parrot, and its tokenizer: the context and the time that a step takes.
pub fn engine(context_len: usize, step: Duration, config: EngineConfig) -> (EngineHandle, Tokenizer) {
    let tokenizer = tokenizer();
    let pages = vec![[0; PAGE_LEN]; NUM_PAGES];
    let model = Parrot { pages, context_len, step, logits: Vec::new(), hidden: Vec::new(), num_adapters: 0 };
    (Engine::start(model, Arc::new(Text(tokenizer.clone())), config).unwrap(), tokenizer)
}

/// What the parrot says to a prompt. It counts turns, and knows a name that it was told anywhere in the prompt.
pub fn reply(prompt: &str) -> String {
    let questions: Vec<&str> =
        prompt.split("<|im_start|>user\n").skip(1).filter_map(|rest| rest.split("<|im_end|>").next()).collect();
    let asked = questions.last().copied().unwrap_or_default();
    if asked.contains("my name?") {
        let name = prompt.split("My name is ").nth(1).and_then(|rest| rest.split(['.', '<']).next());
        return format!("You are {}.", name.unwrap_or("a stranger"));
    }
    if asked.contains("think") {
        return "<think>\nhard\n</think>\n\nWell.".into();
    }
    if asked.contains("count") {
        return (1..200).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    }
    if asked.contains("system?") {
        return prompt
            .split("<|im_start|>system\n")
            .nth(1)
            .map_or("none", |rest| rest.split("<|im_end|>").next().unwrap())
            .into();
    }
    format!("Turn {}: *{asked}* é", questions.len())
}

struct Parrot {
    pages: Vec<[TokenId; PAGE_LEN]>,
    context_len: usize,
    step: Duration,
    logits: Vec<f32>, // [rows, vocab_size]
    hidden: Vec<f32>, // [rows, HIDDEN_SIZE]
    num_adapters: u32,
}

impl LanguageModel for Parrot {
    fn vocab_size(&self) -> usize {
        VOCAB_SIZE
    }

    fn num_pages(&self) -> usize {
        self.pages.len()
    }

    fn max_positions(&self) -> usize {
        self.context_len
    }

    fn forward(&mut self, batch: &[BatchSequence<'_>]) -> Result<Rows<'_>, BoxError> {
        std::thread::sleep(self.step);
        self.logits.clear();
        self.hidden.clear();
        for run in batch {
            for (offset, &token) in run.tokens.iter().enumerate() {
                let position = run.position + offset;
                self.pages[run.pages[position / PAGE_LEN].0 as usize][position % PAGE_LEN] = token;
            }
            let end = run.position + run.tokens.len();
            let first = match run.logits {
                LogitsFor::None => end,
                LogitsFor::Last | LogitsFor::HiddenLast => end - 1,
                LogitsFor::All | LogitsFor::HiddenAll => run.position,
            };
            for last in first..end {
                let seen: Vec<TokenId> =
                    (0..=last).map(|at| self.pages[run.pages[at / PAGE_LEN].0 as usize][at % PAGE_LEN]).collect();
                if matches!(run.logits, LogitsFor::HiddenLast | LogitsFor::HiddenAll) {
                    self.hidden.extend([seen.len() as f32, seen[last] as f32]);
                    continue;
                }
                let mut row = vec![0.0; VOCAB_SIZE];
                row[next_token(&seen, run.adapter) as usize] = 50.0;
                self.logits.extend(row);
            }
        }
        Ok(Rows { logits: &self.logits, hidden: &self.hidden })
    }

    fn hidden_size(&self) -> Option<usize> {
        Some(HIDDEN_SIZE)
    }

    fn load_adapter(&mut self, _adapter: Arc<Adapter>) -> Result<AdapterId, BoxError> {
        self.num_adapters += 1;
        Ok(AdapterId(self.num_adapters))
    }

    fn unload_adapter(&mut self, _id: AdapterId) -> Result<(), BoxError> {
        Ok(())
    }

    fn copy_page(&mut self, from: PageId, to: PageId) {
        self.pages[to.0 as usize] = self.pages[from.0 as usize];
    }
}

fn next_token(seen: &[TokenId], adapter: Option<AdapterId>) -> TokenId {
    let mut bytes = Vec::new();
    for &token in seen {
        match token {
            IM_START => bytes.extend(b"<|im_start|>"),
            IM_END => bytes.extend(b"<|im_end|>"),
            byte => bytes.push(byte as u8),
        }
    }
    const OPENING: &[u8] = b"<|im_start|>assistant\n";
    let Some(at) = bytes.windows(OPENING.len()).rposition(|window| window == OPENING) else { return IM_END };
    let said = bytes.len() - at - OPENING.len();
    let mut reply = reply(&String::from_utf8_lossy(&bytes[..at]));
    if let Some(AdapterId(number)) = adapter {
        reply = format!("[{number}] {reply}");
    }
    reply.as_bytes().get(said).map_or(IM_END, |byte| TokenId::from(*byte))
}

struct Text(Tokenizer);

impl TokenText for Text {
    fn token_bytes(&self, id: TokenId) -> Option<Cow<'_, [u8]>> {
        self.0.token_bytes(id).map(Cow::Borrowed)
    }

    fn is_special(&self, id: TokenId) -> bool {
        self.0.is_special(id)
    }

    fn eos_ids(&self) -> &[TokenId] {
        &[IM_END]
    }
}

/// Byte-level BPE without merges.
fn tokenizer() -> Tokenizer {
    // GPT-2's spelling of bytes: printable ones as themselves, the others from U+0100 on.
    let mut others = 0x100..;
    let spelled = (0..=255u8).map(|byte| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => char::from_u32(others.next().unwrap()).unwrap(),
    });
    let vocab: Map<_, _> = spelled.zip(0..).map(|(ch, id): (char, u32)| (ch.to_string(), id.into())).collect();
    let special = |id: TokenId, content: &str| json!({ "id": id, "content": content, "special": true });
    let file = json!({
        "added_tokens": [special(IM_START, "<|im_start|>"), special(IM_END, "<|im_end|>")],
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "use_regex": true },
        "decoder": { "type": "ByteLevel" },
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    });
    Tokenizer::from_json(file.to_string().as_bytes()).unwrap()
}

/// A configuration that says as little as there is to say.
pub fn config(context_len: usize) -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        num_layers: 1,
        hidden_size: 64,
        intermediate_size: 64,
        num_heads: 1,
        num_kv_heads: 1,
        head_dim: 64,
        vocab_size: VOCAB_SIZE,
        rms_norm_eps: 1e-5,
        max_positions: context_len,
        rope: RopeConfig { theta: 10_000.0, num_dims: 64, layout: RopeLayout::HalfSplit, scaling: RopeScaling::None },
        qk_norm: false,
        qkv_bias: false,
        tied_embeddings: true,
        sliding_window: None,
    }
}
