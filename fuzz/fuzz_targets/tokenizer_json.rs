//! Any bytes as a `tokenizer.json`: whatever is accepted encodes every text, within bounds, to tokens that it has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qern_model::tokenizer::{Specials, Tokenizer};

const TEXT: &str = "Hello <|im_end|> wörld,\t 123\u{300}e\r\n\n  don't 你好 \u{1F600}</s>  x";

fuzz_target!(|bytes: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_json(bytes) else { return };
    for specials in [Specials::AsText, Specials::Parse] {
        if let Ok(ids) = tokenizer.encode(TEXT, specials) {
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size() && tokenizer.token_bytes(id).is_some()));
            tokenizer.decode(&ids, true);
            tokenizer.decode(&ids, false);
        }
    }
    tokenizer.template_tokens();
});
