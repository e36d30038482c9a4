//! What a checkpoint says about its tokenizer, as it says it: the files of a folder or the arrays of a GGUF. How a tokenizer
//! is built from it is in `tokenizer`.

use crate::batch::TokenId;

/// Where a model's tokenizer comes from.
#[derive(Clone, Debug)]
pub enum TokenizerSource {
    /// `tokenizer.json` beside the weights.
    Json(JsonVocabulary),
    /// The `tokenizer.ggml.*` metadata of a GGUF file.
    Gguf(GgufVocabulary),
}

/// The tokenizer files of a checkpoint folder.
#[derive(Clone, Debug, Default)]
pub struct JsonVocabulary {
    /// The bytes of `tokenizer.json`.
    pub tokenizer_json: Vec<u8>,
    /// The parts of `tokenizer_config.json` that `tokenizer.json` does not say; all `None` without that file.
    pub config: TokenizerConfig,
}

/// The special tokens and switches of `tokenizer_config.json`. Tokens are texts, whether the file gave them as strings or as
/// `AddedToken` objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// `bos_token`.
    pub bos_token: Option<String>,
    /// `eos_token`.
    pub eos_token: Option<String>,
    /// `pad_token`.
    pub pad_token: Option<String>,
    /// `unk_token`.
    pub unk_token: Option<String>,
    /// `add_bos_token`.
    pub add_bos_token: Option<bool>,
    /// `add_eos_token`.
    pub add_eos_token: Option<bool>,
}

/// The tokenizer metadata of a GGUF file. Ids are checked against `tokens`; nothing else is interpreted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: `gpt2` for byte-level BPE, `llama` for SentencePiece BPE.
    pub model: String,
    /// `tokenizer.ggml.pre`: the name of the pre-tokenizer, such as `qwen2`.
    pub pre: Option<String>,
    /// The text of every token, by id. // [num_tokens]
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type` (1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte); empty when absent.
    /// // [num_tokens] or []
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.scores`, the order of merging of SentencePiece models; empty when absent. // [num_tokens] or []
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.merges`, best first, each `left right`; empty when absent.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos_token_id: Option<TokenId>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos_token_id: Option<TokenId>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad_token_id: Option<TokenId>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk_token_id: Option<TokenId>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}
