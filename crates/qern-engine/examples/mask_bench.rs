//! Compiles a set of JSON schemas, walks their instances through the masks token by token, and prints what came of it:
//!
//! ```sh
//! zcat maskbench.jsonl.gz | cargo run --release -p qern-engine --example mask_bench -- tokenizer.json 151936 151645 [spaced|compact|free] [-v]
//! ```
//! A line of the input is `{"id", "schema", "tests": [{"valid", "data"}]}`. The numbers after the tokenizer are those of logits and
//! of the token that ends an answer.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::BufRead;
use std::time::{Duration, Instant};

use qern_engine::constraint::{
    Compiled, Constraint, ConstraintCompiler, ConstraintError, ConstraintLimits, JsonLayout, Matcher, Vocabulary,
};
use qern_model::tokenizer::Tokenizer;
use serde_json::Value;

#[derive(Default)]
struct Tally {
    schemas: usize,
    compiled: usize,
    valid: [usize; 2],   // accepted, all
    reordered: usize,    // of the accepted, those whose properties stand in another order than the schema's
    invalid: [usize; 2], // accepted, all
    broken: usize,
    forced: usize,
    tokens: usize,
    strays: Vec<String>,
    refused: BTreeMap<String, Vec<String>>,
    wrong: Vec<String>,
    masks: Vec<Duration>,
    compiles: Vec<Duration>,
    firsts: Vec<Duration>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [tokenizer, num_logits, eos, rest @ ..] = args.as_slice() else {
        return Err("give a tokenizer.json, logits and end".into());
    };
    let layout = match rest.first().map(String::as_str) {
        None | Some("spaced" | "-v") => JsonLayout::Spaced,
        Some("compact") => JsonLayout::Compact,
        Some("free") => JsonLayout::Free,
        Some(other) => return Err(format!("no layout `{other}`").into()),
    };
    let tokenizer = Tokenizer::from_json(&std::fs::read(tokenizer)?)?;
    let begun = Instant::now();
    let vocabulary = Vocabulary::new(&tokenizer, &[eos.parse()?], num_logits.parse()?)?;
    println!("vocabulary of {} tokens in {:.0} ms", vocabulary.len(), begun.elapsed().as_secs_f64() * 1e3);
    let compiler = ConstraintCompiler::new(vocabulary, ConstraintLimits::default());

    let mut tally = Tally::default();
    for line in std::io::stdin().lock().lines() {
        let case: Value = serde_json::from_str(&line?)?;
        run(&case, &compiler, layout, &mut tally)?;
    }
    report(&mut tally, rest.iter().any(|arg| arg == "-v"));
    Ok(())
}

fn run(case: &Value, compiler: &ConstraintCompiler, layout: JsonLayout, tally: &mut Tally) -> Result<(), Box<dyn Error>> {
    let id = case["id"].as_str().unwrap_or_default();
    tally.schemas += 1;
    let constraint = Constraint::JsonSchema(case["schema"].clone());
    let begun = Instant::now();
    let compiled = match compiler.compile(&constraint, layout) {
        Ok(compiled) => compiled,
        Err(error) => {
            let reason = match &error {
                ConstraintError::Schema(problems) => {
                    problems.iter().map(|p| format!("{} {}", p.keyword, p.reason)).next().unwrap_or_default()
                }
                other => other.to_string(),
            };
            let text = error.to_string();
            tally.refused.entry(reason.chars().take(110).collect()).or_default().push(format!("{id}: {text}"));
            return Ok(());
        }
    };
    tally.compiles.push(begun.elapsed());
    if let Err(error) = compiled.matcher().mask() {
        tally.wrong.push(format!("{id}: no first mask: {error}"));
    }
    tally.firsts.push(begun.elapsed());
    tally.compiled += 1;
    for (number, test) in case["tests"].as_array().into_iter().flatten().enumerate() {
        let is_valid = test["valid"] == true;
        let written = text(&test["data"], layout);
        let mut outcome = walk_text(&compiled, compiler, &written, tally)?;
        if outcome != Ok(true) {
            // The grammar fixes the order of properties, a validator does not care: look for one that the grammar takes.
            let (matcher, vocabulary) = (compiled.matcher(), compiler.vocabulary());
            let mut search =
                Search { matcher, vocabulary, layout, text: String::new(), early: Vec::new(), left: None, budget: 0 };
            for _ in 0..if is_valid { 40 } else { 4 } {
                search.budget = if is_valid { 10_000 } else { 500 };
                if search.finish(vec![Part::Value(&test["data"])]) {
                    if search.text != written {
                        outcome = walk_text(&compiled, compiler, &search.text, tally)?;
                        tally.reordered += usize::from(is_valid && outcome == Ok(true));
                    }
                    break;
                }
                // What was left over at the end has to come earlier.
                search.early.extend(search.left.take());
            }
        }
        let [accepted, all] = if is_valid { &mut tally.valid } else { &mut tally.invalid };
        *all += 1;
        *accepted += usize::from(outcome == Ok(true));
        tally.broken += usize::from(outcome.is_err());
        if outcome != Ok(is_valid) {
            tally.wrong.push(format!("{id}, test {number}, valid {is_valid}: {outcome:?}"));
        }
    }
    Ok(())
}

fn walk_text(
    compiled: &Compiled,
    compiler: &ConstraintCompiler,
    text: &str,
    tally: &mut Tally,
) -> Result<Result<bool, String>, Box<dyn Error>> {
    let tokens = compiler.vocabulary().encode(text).ok_or("text that is not spelled exactly")?;
    let known = tally.strays.len();
    let outcome = walk(&mut compiled.matcher(), &tokens, compiler.vocabulary(), tally);
    if outcome != Ok(true) {
        // What is forced and what an invalid instance has may well differ.
        tally.strays.truncate(known);
    }
    Ok(outcome)
}

/// Looks for an order of the properties that the grammar takes, letter by letter.
struct Search<'a> {
    matcher: Matcher,
    vocabulary: &'a Vocabulary,
    layout: JsonLayout,
    text: String,
    /// Properties that are tried first, and one that could not be written last.
    early: Vec<String>,
    left: Option<String>,
    budget: usize,
}

/// What is still to be written.
#[derive(Clone)]
enum Part<'a> {
    Text(&'static str),
    Value(&'a Value),
    Fields(Vec<(&'a String, &'a Value)>, bool),
}

impl<'a> Search<'a> {
    /// Writes the parts, the last first; false if no order is taken.
    fn finish(&mut self, mut parts: Vec<Part<'a>>) -> bool {
        let Some(part) = parts.pop() else { return self.matcher.is_accepting() };
        match part {
            Part::Text(text) => self.write(text, parts),
            Part::Value(Value::Array(items)) => {
                parts.push(Part::Text("]"));
                for (id, item) in items.iter().enumerate().rev() {
                    parts.push(Part::Value(item));
                    parts.push(Part::Text(if id == 0 { "" } else { self.separators()[0] }));
                }
                parts.push(Part::Text("["));
                self.finish(parts)
            }
            Part::Value(Value::Object(fields)) => {
                parts.push(Part::Fields(fields.iter().collect(), true));
                self.write("{", parts)
            }
            Part::Value(simple) => self.write(&simple.to_string(), parts),
            Part::Fields(fields, _) if fields.is_empty() => self.write("}", parts),
            Part::Fields(mut fields, is_first) => {
                fields.sort_by_key(|(key, _)| !self.early.contains(key));
                let is_written = (0..fields.len()).any(|place| {
                    let [comma, colon] = self.separators();
                    let mut rest = fields.clone();
                    let (key, value) = rest.remove(place);
                    let mut parts = parts.clone();
                    parts.push(Part::Fields(rest, false));
                    parts.push(Part::Value(value));
                    let key = format!("{}{}{colon}", if is_first { "" } else { comma }, Value::String(key.clone()));
                    self.write(&key, parts)
                });
                if !is_written && fields.len() == 1 && !self.early.contains(fields[0].0) {
                    self.left.get_or_insert_with(|| fields[0].0.clone());
                }
                is_written
            }
        }
    }

    fn separators(&self) -> [&'static str; 2] {
        if self.layout == JsonLayout::Compact { [",", ":"] } else { [", ", ": "] }
    }

    fn write(&mut self, text: &str, parts: Vec<Part<'a>>) -> bool {
        self.budget = self.budget.saturating_sub(1);
        let tokens = self.vocabulary.encode(text).unwrap_or_default();
        if self.budget == 0 || self.matcher.legal_prefix(&tokens) < tokens.len() {
            return false;
        }
        let before = self.matcher.tokens().len();
        let length = self.text.len();
        self.text.push_str(text);
        if tokens.iter().all(|&token| self.matcher.commit(token).is_ok()) && self.finish(parts) {
            return true;
        }
        self.text.truncate(length);
        _ = self.matcher.rollback(self.matcher.tokens().len() - before);
        false
    }
}

/// Whether the tokens are an answer. Every mask on the way is computed, and forced tokens are compared with those that come.
fn walk(matcher: &mut Matcher, tokens: &[u32], vocabulary: &Vocabulary, tally: &mut Tally) -> Result<bool, String> {
    let mut forced_until = 0;
    for (place, &token) in tokens.iter().enumerate() {
        let begun = Instant::now();
        let legal = matcher.mask().map_err(|error| error.to_string())?.allows(token);
        tally.masks.push(begun.elapsed());
        tally.tokens += 1;
        if place >= forced_until {
            let forced = matcher.forced_tokens();
            if legal && !tokens[place..].starts_with(&forced) {
                let shown: Vec<_> = [
                    &tokens[place.saturating_sub(4)..place],
                    &tokens[place..tokens.len().min(place + forced.len() + 2)],
                    &forced,
                ]
                .map(|tokens| String::from_utf8_lossy(&vocabulary.decode(tokens)).into_owned())
                .to_vec();
                tally
                    .strays
                    .push(format!("{shown:?} {:?} {forced:?}", &tokens[place..tokens.len().min(place + forced.len() + 2)]));
            }
            tally.forced += forced.len();
            forced_until = place + forced.len();
        }
        if !legal {
            // A mask may hold less than the grammar only where the text is forced.
            return Ok(false);
        }
        matcher.commit(token).map_err(|error| error.to_string())?;
    }
    Ok(matcher.is_accepting())
}

/// As the layout has it (the free one: as Python writes it).
fn text(data: &Value, layout: JsonLayout) -> String {
    let [comma, colon] = if layout == JsonLayout::Compact { [",", ":"] } else { [", ", ": "] };
    match data {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| text(item, layout)).collect();
            format!("[{}]", items.join(comma))
        }
        Value::Object(map) => {
            let fields: Vec<String> =
                map.iter().map(|(key, value)| format!("{}{colon}{}", Value::String(key.clone()), text(value, layout))).collect();
            format!("{{{}}}", fields.join(comma))
        }
        simple => simple.to_string(),
    }
}

fn report(tally: &mut Tally, verbose: bool) {
    println!("schemas that compile: {} of {}", tally.compiled, tally.schemas);
    println!(
        "valid instances accepted: {} of {} ({} with their properties in the schema's order)",
        tally.valid[0], tally.valid[1], tally.reordered
    );
    println!("invalid instances accepted: {} of {}", tally.invalid[0], tally.invalid[1]);
    println!(
        "walks that broke off: {}; forced tokens {} of {}, runs that differ from the instance's tokens: {}",
        tally.broken,
        tally.forced,
        tally.tokens,
        tally.strays.len()
    );
    print_times("mask", &mut tally.masks);
    print_times("schema to matcher", &mut tally.compiles);
    print_times("schema to first mask", &mut tally.firsts);
    for stray in tally.strays.iter().take(40).filter(|_| verbose) {
        println!("stray {stray}");
    }
    for wrong in &tally.wrong {
        println!("WRONG {wrong}");
    }
    for (reason, ids) in &tally.refused {
        println!("refused {}: {reason}", ids.len());
        for id in ids.iter().filter(|_| verbose) {
            println!("    {id}");
        }
    }
}

fn print_times(name: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().map_or(0.0, micros);
    let mean = times.iter().map(|&time| micros(time)).sum::<f64>() / times.len().max(1) as f64;
    println!("{name}: mean {mean:.1} us, p50 {:.1}, p90 {:.1}, p99 {:.1}, max {:.1}", at(0.5), at(0.9), at(0.99), at(1.0 - 1e-9));
}
