//! `qern chat`: joins the terminal and the session. What commands and answers do is in `session`.

use std::io::{self, IsTerminal, StdoutLock, Write};
use std::process::ExitCode;

use anyhow::Context;

use crate::cli::ChatArgs;
use crate::exit::{self, Interrupted, UsageError};
use crate::interrupt::{self, Listener};
use crate::loading;
use crate::output;
use crate::session::chat::{Chat, Reaction, Start};
use crate::session::command::{self, COMMANDS, Command, Entry};
use crate::session::generate::{Failure, Follower};
use crate::session::prompt::template_for;
use crate::session::report::answer_note;
use crate::session::request;
use crate::session::settings::Settings;
use crate::store;
use crate::terminal::answer::{AnswerView, Look};
use crate::terminal::input::{Completions, Input};
use crate::terminal::prefill::PrefillBar;
use crate::terminal::style::Style;

/// Runs `qern chat`.
pub fn run(args: &ChatArgs) -> anyhow::Result<ExitCode> {
    if let Some(flag) = args.sampling.meaningless_in_chat() {
        return Err(UsageError(format!("{flag} must be left out: it has no meaning in a chat; use it with `qern run`")).into());
    }
    let mut model = loading::load(args.model_name(), &args.machine, &args.context, &args.log)?;
    let template = template_for(&mut model, args.prompt.chat_template.as_deref())?;
    let styled = output::stdout_has_colour() && !args.plain;
    let history = store::home().ok().map(|home| home.join("history"));
    let mut input = Input::from_stdin(history, completions(), output::stdout_has_colour())?;
    let notes = Notes { quiet: args.log.quiet, coloured: output::stderr_has_colour() };
    if input.is_terminal() || args.log.verbose > 0 {
        notes.say(&model.summary);
    }
    if args.log.verbose > 0 {
        notes.say(&format!("sampling: {}", request::summary(&args.sampling, &model.defaults)));
    }
    if input.is_terminal() {
        notes.say("/help lists the commands, Ctrl-C stops an answer, Ctrl-D ends the chat");
    }
    let start = Start {
        name: args.model_name().to_string(),
        system: args.prompt.system.clone(),
        settings: Settings { sampling: args.sampling.clone(), thinking: args.prompt.thinking() },
        strict: args.context.strict_context,
    };
    let chat = Chat::new(model, template, start)?;
    let look = Look::of(io::stdout().is_terminal(), styled);
    Screen { chat, look, notes, interactive: input.is_terminal() }.converse(&mut input)
}

/// The chat and where it is shown.
struct Screen {
    chat: Chat,
    look: Look,
    notes: Notes,
    /// A person is typing, who can react to an error.
    interactive: bool,
}

impl Screen {
    fn converse(&mut self, input: &mut Input) -> anyhow::Result<ExitCode> {
        while let Some(entered) = input.read()? {
            match self.react(&entered) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if self.interactive && !exit::is_broken_pipe(&error) => exit::report(&error),
                Err(error) => return Err(error),
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Does what was entered; `false` ends the chat.
    fn react(&mut self, entered: &str) -> anyhow::Result<bool> {
        let reaction = match command::parse(entered).map_err(anyhow::Error::msg)? {
            Entry::Message(text) => {
                self.chat.ask(text);
                Reaction::Answer
            }
            Entry::Command(command) => {
                let clears = command == Command::Clear;
                let reaction = self.chat.carry_out(command)?;
                if clears && self.look == Look::Styled {
                    write!(io::stdout(), "\x1b[H\x1b[2J\x1b[3J")?;
                }
                reaction
            }
        };
        match reaction {
            Reaction::Answer => self.answer()?,
            Reaction::Say(text) => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text.as_bytes())?;
                stdout.flush()?;
            }
            Reaction::Quit => return Ok(false),
        }
        Ok(true)
    }

    fn answer(&mut self) -> anyhow::Result<()> {
        let listener = interrupt::listen();
        let ready = self.chat.prepare()?;
        if let Some(note) = &ready.note {
            self.notes.say(&format!("note: {note}"));
        }
        let view = AnswerView::new(io::stdout().lock(), self.look, ready.inside_thinking);
        let mut follower = Watching { view, listener, prefill: PrefillBar::new(!self.notes.quiet) };
        let answer = self.chat.answer(ready, &mut follower);
        follower.prefill.clear();
        let finished = follower.view.finish(true);
        drop(follower);
        let answer = answer?;
        finished.map_err(Failure::Output)?;
        let note = answer_note(answer.reason.as_ref(), self.chat.context_len(), self.chat.max_tokens());
        if let Some(note) = note {
            self.notes.say(&note);
        }
        if answer.was_stopped() && !self.interactive {
            return Err(Interrupted("interrupted".into()).into());
        }
        if self.interactive {
            writeln!(io::stdout()).context("cannot write to the terminal")?;
        }
        Ok(())
    }
}

/// Shows an answer while it comes, and watches for Ctrl-C.
struct Watching {
    view: AnswerView<StdoutLock<'static>>,
    listener: Listener,
    prefill: PrefillBar,
}

impl Follower for Watching {
    fn prefilling(&mut self, computed: usize, total: usize) {
        self.prefill.show(computed, total);
    }

    fn text(&mut self, _index: usize, text: &str) -> io::Result<()> {
        self.prefill.clear();
        self.view.push(text)
    }

    fn wants_stop(&mut self) -> bool {
        self.listener.take()
    }
}

/// What is said beside the conversation, on stderr.
struct Notes {
    quiet: bool,
    coloured: bool,
}

impl Notes {
    fn say(&self, text: &str) {
        if !self.quiet {
            // Nothing can be done about a stderr that is closed.
            let _ = writeln!(io::stderr(), "{}", Style::DIM.paint(text, self.coloured));
        }
    }
}

/// What Tab offers: the commands and the settings.
fn completions() -> Completions {
    let commands = COMMANDS.iter().map(|(name, ..)| (*name).to_string()).filter(|name| !name.starts_with("//"));
    let settings = Settings::keys().into_iter().map(|key| format!("/set {key}"));
    Completions { beginnings: commands.chain(settings).collect() }
}
