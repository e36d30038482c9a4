//! `qern run`: one prompt in, its answers on stdout as they come. What goes into the prompt is read in `stdin`, the
//! machine-readable form is in `json`.

mod json;
mod stdin;
mod text;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use qern_engine::TokenId;
use qern_model::chat::{Conversation, Message};
use qern_model::context_window::ContextReport;
use qern_model::prompt::{PromptRules, answer_options, opens_thinking, prompt};
use qern_model::tokenizer::Specials;

use crate::cli::RunArgs;
use crate::exit::{INTERRUPTED, UsageError};
use crate::interrupt;
use crate::loading::{self, LoadedModel};
use crate::output;
use crate::session::constraint;
use crate::session::generate::{Failure, Outcome, generate};
use crate::session::prompt::{check_template, dropped_note, template_for};
use crate::session::report::answer_note;
use crate::session::request;
use crate::terminal::style::Style;

/// Runs `qern run`.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let text = stdin::prompt_text(&args.prompt_parts, args.raw)?;
    if text.trim().is_empty() {
        let fix = "give one, as in `qern run \"Why is the sky blue?\"`, or pipe text into `qern run -`";
        return Err(UsageError(format!("the prompt must not be empty; {fix}")).into());
    }
    // Before the model is loaded: a wrong file is found at once.
    let constraint = constraint::constraint(&args.form)?;
    let begun = Instant::now();
    let mut model = loading::load(args.model.name(), &args.machine, &args.context, &args.log)?;
    let load_seconds = begun.elapsed().as_secs_f64();
    if args.log.verbose > 0 {
        say(&model.summary);
        say(&format!("sampling: {}", request::summary(&args.sampling, &model.defaults)));
    }
    let prepared = if args.raw { raw(&model, &text)? } else { chat(args, &mut model, text)? };
    if let Some(note) = prepared.report.and_then(|report| dropped_note(&report, model.context_len)) {
        note_unless_quiet(args, &format!("note: {note}"));
    }

    let mut request = request::request(prepared.tokens, &args.sampling, &model.defaults);
    if let Some(constraint) = &constraint {
        let compiled = constraint::compile(&model, constraint, args.form_options.json_layout)?;
        compiled.notes().iter().for_each(|note| note_unless_quiet(args, &format!("note: {note}")));
        request.constraint = Some(compiled);
        request.finish_structure = args.form_options.finish_structure;
        if args.form_options.confidence {
            request.logprobs.get_or_insert(0);
        }
    }
    let request = request.validate(&model.engine.limits())?;
    let listener = interrupt::listen();
    let outcome = if args.json {
        let mut silent = text::Silent::new(&listener, !args.log.quiet);
        generate(&model.engine, request, &mut silent)?
    } else {
        let mut shown = text::InOrder::new(&listener, prepared.inside_thinking, args);
        let outcome = generate(&model.engine, request, &mut shown);
        shown.finish().map_err(Failure::Output)?;
        outcome?
    };
    drop(listener);

    if args.json {
        let run = json::Run {
            model: args.model.name(),
            load_seconds,
            report: prepared.report,
            context_len: model.context_len,
            confidence: args.form_options.confidence,
        };
        writeln!(io::stdout(), "{}", run.object(&outcome))?;
    } else {
        tell_about(args, &model, &outcome)?;
    }
    Ok(if outcome.stopped { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// A prompt that is ready for the engine.
struct Prepared {
    tokens: Vec<TokenId>,
    /// What became of the conversation; there is none behind a raw prompt.
    report: Option<ContextReport>,
    inside_thinking: bool,
}

fn raw(model: &LoadedModel, text: &str) -> anyhow::Result<Prepared> {
    let tokenizer = &model.tokenizer;
    let bos = tokenizer.add_bos().then(|| tokenizer.bos_id()).flatten();
    let mut tokens: Vec<TokenId> = bos.into_iter().collect();
    tokens.extend(tokenizer.encode(text, Specials::Parse)?);
    Ok(Prepared { tokens, report: None, inside_thinking: false })
}

fn chat(args: &RunArgs, model: &mut LoadedModel, text: String) -> anyhow::Result<Prepared> {
    let template = template_for(model, args.prompt.chat_template.as_deref())?;
    check_template(&template, args.prompt.system.is_some(), args.prompt.thinking())?;
    let system = args.prompt.system.iter().map(Message::system);
    let conversation = Conversation::new(system.chain([Message::user(text)]).collect());
    let rules = PromptRules {
        context_len: model.context_len,
        max_tokens: args.sampling.max_tokens.map(|tokens| tokens as usize),
        strict: args.context.strict_context,
    };
    let options = answer_options(args.prompt.thinking());
    let fitted = prompt(&conversation, &template, &model.tokenizer, rules, &options)?;
    let inside_thinking = opens_thinking(&fitted);
    Ok(Prepared { tokens: fitted.tokens, report: Some(fitted.report), inside_thinking })
}

/// What else there is to say about the answers, on stderr.
fn tell_about(args: &RunArgs, model: &LoadedModel, outcome: &Outcome) -> anyhow::Result<()> {
    if args.form_options.confidence {
        for answer in &outcome.answers {
            write!(io::stderr(), "{}", text::confidence_table(&answer.confidence()))?;
        }
    }
    if args.sampling.logprobs.is_some() {
        for answer in &outcome.answers {
            write!(io::stderr(), "{}", text::logprobs_table(&answer.logprobs))?;
        }
    }
    let max_tokens = args.sampling.max_tokens.map(|tokens| tokens as usize);
    for answer in &outcome.answers {
        // Whoever asked for so many tokens expects them to be the end.
        if max_tokens.is_none()
            && let Some(note) = answer_note(answer.reason.as_ref(), model.context_len, max_tokens)
        {
            note_unless_quiet(args, &note);
        }
    }
    if args.log.verbose > 0 {
        say(&text::speed_line(outcome));
    }
    Ok(())
}

fn note_unless_quiet(args: &RunArgs, note: &str) {
    if !args.log.quiet {
        say(note);
    }
}

fn say(text: &str) {
    // Nothing can be done about a stderr that is closed.
    let _ = writeln!(io::stderr(), "{}", Style::DIM.paint(text, output::stderr_has_colour()));
}
