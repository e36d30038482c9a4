//! The real model and tokenizer behind the engine's traits. No policy of its own.

use crate::model::{BoxError, LanguageModel, Rows, TokenText};
use qern_kernels::kv::{KvError, KvFormat, KvPages};
use qern_model::batch::{AdapterId, BatchSequence, PAGE_LEN, PageId, TokenId};
use qern_model::lora::{Adapter, AdapterSet};
use qern_model::tokenizer::Tokenizer;
use qern_model::transformer::{ForwardOptions, Scratch, Transformer};
use std::borrow::Cow;
use std::sync::Arc;

/// A transformer with its own pool of KV pages and its adapters.
pub struct Runner {
    transformer: Arc<Transformer>,
    adapters: AdapterSet,
    kv: KvPages,
    scratch: Scratch,
    max_positions: usize,
}

impl Runner {
    /// Makes a pool for `num_positions` positions in all; a sequence may be as long as that, or as the model allows.
    pub fn new(transformer: Arc<Transformer>, format: KvFormat, num_positions: usize) -> Result<Self, KvError> {
        let kv = KvPages::new(transformer.kv_geometry(format), num_positions.div_ceil(PAGE_LEN))?;
        let max_positions = transformer.config().max_positions.min(num_positions);
        Ok(Self { transformer, adapters: AdapterSet::new(), kv, scratch: Scratch::default(), max_positions })
    }
}

impl LanguageModel for Runner {
    fn vocab_size(&self) -> usize {
        self.transformer.config().vocab_size
    }

    fn num_pages(&self) -> usize {
        self.kv.num_pages()
    }

    fn max_positions(&self) -> usize {
        self.max_positions
    }

    fn forward(&mut self, batch: &[BatchSequence<'_>]) -> Result<Rows<'_>, BoxError> {
        let options = ForwardOptions { adapters: Some(&self.adapters), ..Default::default() };
        self.transformer.forward_with(batch, &mut self.kv, &mut self.scratch, options)?;
        Ok(Rows { logits: self.scratch.logits(), hidden: self.scratch.hidden() })
    }

    fn hidden_size(&self) -> Option<usize> {
        Some(self.transformer.config().hidden_size)
    }

    fn load_adapter(&mut self, adapter: Arc<Adapter>) -> Result<AdapterId, BoxError> {
        Ok(self.adapters.load(&self.transformer, adapter)?)
    }

    fn unload_adapter(&mut self, id: AdapterId) -> Result<(), BoxError> {
        self.adapters.unload(id)?;
        Ok(())
    }

    fn copy_page(&mut self, from: PageId, to: PageId) {
        self.kv.copy_page(from.0, to.0);
    }
}

/// A tokenizer with the tokens that end an answer of its model.
pub struct ModelText {
    tokenizer: Tokenizer,
    eos_ids: Vec<TokenId>,
}

impl ModelText {
    /// The end tokens are those of the model's generation defaults.
    pub fn new(tokenizer: Tokenizer, eos_ids: Vec<TokenId>) -> Self {
        Self { tokenizer, eos_ids }
    }
}

impl TokenText for ModelText {
    fn token_bytes(&self, id: TokenId) -> Option<Cow<'_, [u8]>> {
        self.tokenizer.token_bytes(id).map(Cow::Borrowed)
    }

    fn is_special(&self, id: TokenId) -> bool {
        self.tokenizer.is_special(id)
    }

    fn eos_ids(&self) -> &[TokenId] {
        &self.eos_ids
    }
}
