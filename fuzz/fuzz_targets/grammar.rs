//! A grammar that somebody else wrote, in GBNF or in Lark: refused or kept, and never a panic or a hang.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use qern_engine::constraint::{Constraint, ConstraintCompiler, ConstraintLimits, JsonLayout, Vocabulary};

fn compiler() -> &'static ConstraintCompiler {
    static COMPILER: OnceLock<ConstraintCompiler> = OnceLock::new();
    COMPILER.get_or_init(|| ConstraintCompiler::new(Vocabulary::of_bytes().unwrap(), ConstraintLimits::default()))
}

fuzz_target!(|text: &str| {
    for constraint in [Constraint::Gbnf(text.into()), Constraint::Lark(text.into())] {
        if let Ok(compiled) = compiler().compile(&constraint, JsonLayout::Compact) {
            let mut matcher = compiled.matcher();
            for _ in 0..8 {
                let Some(token) = matcher.mask().ok().and_then(|mask| mask.tokens().find(|&token| token < 256)) else { break };
                matcher.commit(token).expect("a legal token is taken");
            }
        }
    }
});
