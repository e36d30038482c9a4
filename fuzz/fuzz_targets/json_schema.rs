//! A schema that somebody else wrote: it is refused or kept, within its limits, and never panics or hangs. If it is kept, a walk along
//! its masks by the rest of the input stays legal.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use qern_engine::constraint::{Constraint, ConstraintCompiler, ConstraintLimits, JsonLayout, Vocabulary};

fn compiler() -> &'static ConstraintCompiler {
    static COMPILER: OnceLock<ConstraintCompiler> = OnceLock::new();
    COMPILER.get_or_init(|| ConstraintCompiler::new(Vocabulary::of_bytes().unwrap(), ConstraintLimits::default()))
}

fuzz_target!(|data: &[u8]| {
    let (text, walk) = data.split_at(data.len() - data.len() / 8);
    let Ok(schema) = serde_json::from_slice(text) else { return };
    let Ok(compiled) = compiler().compile(&Constraint::JsonSchema(schema), JsonLayout::Compact) else { return };
    let mut matcher = compiled.matcher();
    for &byte in walk {
        let Ok(mask) = matcher.mask() else { return };
        let legal: Vec<u32> = mask.tokens().filter(|&token| token < 256).collect();
        if legal.is_empty() {
            return;
        }
        matcher.commit(legal[usize::from(byte) % legal.len()]).expect("a legal token is taken");
    }
    matcher.rollback(walk.len().min(matcher.tokens().len())).expect("what was taken is given back");
});
