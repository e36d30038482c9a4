//! Answers of a real model under JSON schemas, validated by another implementation (the `jsonschema` crate); and what a constraint
//! costs a token:
//!
//! ```sh
//! zcat maskbench.jsonl.gz | cargo run --release -p qern-engine --example form_bench -- smollm2.gguf [500] [256]
//! ```
//! A line of the input has a `schema`. The numbers are those of answers, and of tokens that each may have. Temperature 1, nothing
//! truncated.

use std::error::Error;
use std::io::BufRead;
use std::sync::Arc;

use qern_engine::constraint::{Compiled, Constraint, ConstraintCompiler, ConstraintLimits, JsonLayout, Vocabulary};
use qern_engine::{
    Engine, EngineConfig, EngineHandle, Event, FinishReason, GenerateRequest, ModelText, RequestStream, Runner, SamplingParams,
    Usage,
};
use qern_kernels::isa::Isa;
use qern_kernels::kv::KvFormat;
use qern_kernels::pool::Pool;
use qern_model::checkpoint::Checkpoint;
use qern_model::tokenizer::{Specials, Tokenizer};
use qern_model::transformer::Transformer;
use qern_model::weights::Weights;
use serde_json::{Value, json};

struct Answer {
    text: String,
    reason: FinishReason,
    usage: Usage,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, rest @ ..] = args.as_slice() else { return Err("give a model".into()) };
    let number = |place: usize, default: usize| rest.get(place).map_or(Ok(default), |text| text.parse());
    let (count, max_tokens) = (number(0, 500)?, number(1, 256)?);

    let checkpoint = Checkpoint::open(std::path::Path::new(model))?;
    let pool = Arc::new(Pool::new(0));
    let weights = Weights::load(&checkpoint, &pool, &mut |_| {})?;
    let tokenizer = Tokenizer::new(&checkpoint.tokenizer_source()?)?;
    let transformer = Arc::new(Transformer::new(checkpoint.config().clone(), weights, pool, Isa::from_env()?)?);
    let mut eos = checkpoint.generation_defaults().eos_token_ids.clone();
    if eos.is_empty() {
        eos.extend(tokenizer.eos_id());
    }
    let runner = Runner::new(transformer, KvFormat::F16, 16_384)?;
    let engine = Engine::start(runner, Arc::new(ModelText::new(tokenizer.clone(), eos.clone())), EngineConfig::default())?;
    let vocabulary = Vocabulary::new(&tokenizer, &eos, engine.limits().vocab_size)?;
    let compiler = ConstraintCompiler::new(vocabulary, ConstraintLimits::default());

    let mut schemas = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let schema = serde_json::from_str::<Value>(&line?)?["schema"].take();
        if let Ok(compiled) = compiler.compile(&Constraint::JsonSchema(schema.clone()), JsonLayout::Spaced) {
            schemas.push((schema, compiled));
        }
    }
    println!("{} schemas compile", schemas.len());
    answers(&engine, &tokenizer, &schemas, count, max_tokens)?;
    overhead(&engine, &tokenizer, &compiler)
}

fn answers(
    engine: &EngineHandle,
    tokenizer: &Tokenizer,
    schemas: &[(Value, Arc<Compiled>)],
    count: usize,
    max_tokens: usize,
) -> Result<(), Box<dyn Error>> {
    let (mut valid, mut cut, mut wrong, mut closed) = (0, 0, Vec::new(), 0);
    let mut unclosed = 0;
    let (mut tokens, mut forced) = (0, 0);
    for batch in (0..count).collect::<Vec<_>>().chunks(16) {
        let submit = |&id: &usize| -> Result<_, Box<dyn Error>> {
            let (schema, compiled) = &schemas[id * 7 % schemas.len()];
            // Every other answer that is cut is closed, and must then be valid as well.
            let finish = id % 2 == 1;
            let prompt = tokenizer
                .encode("<|im_start|>user\nGive an example as JSON.<|im_end|>\n<|im_start|>assistant\n", Specials::Parse)?;
            let request = GenerateRequest {
                prompt,
                sampling: SamplingParams { temperature: 1.0, ..SamplingParams::default() },
                max_tokens: Some(max_tokens),
                seed: Some(id as u64),
                constraint: Some(compiled.clone()),
                finish_structure: finish,
                ..GenerateRequest::default()
            };
            Ok((id, schema, finish, engine.submit(request.validate(&engine.limits())?)?))
        };
        let streams = batch.iter().map(submit).collect::<Result<Vec<_>, _>>()?;
        for (id, schema, finish, stream) in streams {
            let answer = match wait(stream) {
                Ok(answer) => answer,
                Err(error) => {
                    wrong.push(format!("{id}: {error}"));
                    continue;
                }
            };
            tokens += answer.usage.generated_tokens;
            forced += answer.usage.forced_tokens;
            let is_cut = answer.reason != FinishReason::Stop;
            cut += usize::from(is_cut);
            if is_cut && !finish {
                continue;
            }
            if is_cut && serde_json::from_str::<Value>(&answer.text).is_err() {
                unclosed += 1;
                continue;
            }
            closed += usize::from(is_cut);
            match check(schema, &answer.text) {
                Ok(()) => valid += 1,
                Err(reason) => wrong.push(format!("{id} ({:?}): {reason}\n    {}\n    {schema}", answer.reason, answer.text)),
            }
        }
    }
    println!(
        "{count} answers: {valid} valid ({closed} of them cut and closed), {} reported as cut by length ({unclosed} of them found no way to close), {} wrong",
        cut - closed,
        wrong.len()
    );
    println!("{tokens} tokens, {forced} of them forced ({:.0} %)", 100.0 * forced as f64 / tokens as f64);
    wrong.iter().for_each(|wrong| println!("WRONG {wrong}"));
    Ok(())
}

fn check(schema: &Value, text: &str) -> Result<(), String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let validator =
        jsonschema::options().should_validate_formats(true).build(schema).map_err(|error| format!("validator: {error}"))?;
    validator.validate(&value).map_err(|error| format!("{error} at {}", error.instance_path()))
}

fn wait(stream: RequestStream) -> Result<Answer, Box<dyn Error>> {
    let mut answer = String::new();
    for event in stream {
        match event {
            Event::Token { text, .. } => answer.push_str(&text),
            Event::Finished { text, reason, usage, .. } => return Ok(Answer { text: answer + &text, reason, usage }),
            Event::Failed(error) => return Err(error.into()),
            _ => {}
        }
    }
    Err("no end".into())
}

/// One stream, free and under a schema of long strings, in turn.
fn overhead(engine: &EngineHandle, tokenizer: &Tokenizer, compiler: &ConstraintCompiler) -> Result<(), Box<dyn Error>> {
    let prompt =
        tokenizer.encode("<|im_start|>user\nTell me about ten rivers.<|im_end|>\n<|im_start|>assistant\n", Specials::Parse)?;
    let schema = json!({ "type": "array", "items": { "type": "string", "minLength": 60 }, "minItems": 20 });
    let compiled = compiler.compile(&Constraint::JsonSchema(schema), JsonLayout::Spaced)?;
    let mut times: [Vec<f64>; 2] = Default::default();
    for round in 0..30 {
        for (kind, times) in times.iter_mut().enumerate() {
            let request = GenerateRequest {
                prompt: prompt.clone(),
                sampling: SamplingParams { temperature: 1.0, ..SamplingParams::default() },
                max_tokens: Some(200),
                seed: Some(round),
                ignore_eos: kind == 0,
                constraint: (kind == 1).then(|| compiled.clone()),
                ..GenerateRequest::default()
            };
            let usage = wait(engine.submit(request.validate(&engine.limits())?)?)?.usage;
            times.push(usage.decode_seconds * 1e6 / (usage.generated_tokens - usage.forced_tokens - 1) as f64);
        }
    }
    let [free, constrained] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    println!(
        "per sampled token: free {free:.0} us, under a schema {constrained:.0} us ({:+.1} %)",
        (constrained / free - 1.0) * 100.0
    );
    Ok(())
}
