//! A chat: one loaded model, one conversation, its settings. Answers messages and carries out commands; says everything by
//! return values. Not the terminal: `commands::chat` shows what this returns.

use std::path::Path;

use qern_model::context_window::FittedPrompt;
use qern_model::prompt::{PromptRules, answer_options, opens_thinking, prompt};
use qern_model::template::ChatTemplate;
use qern_model::tokenizer::Specials;

use super::command::{Command, help};
use super::conversation::{Conversation, Speaker};
use super::file::{self, SavedChat};
use super::generate::{Answer, Failure, Follower, generate};
use super::prompt::{check_template, conversation_of, dropped_note};
use super::report::{ContextUse, Stats};
use super::request::{describe, request};
use super::settings::Settings;
use crate::loading::LoadedModel;

/// A chat with a model.
pub struct Chat {
    model: LoadedModel,
    template: ChatTemplate,
    name: String,
    conversation: Conversation,
    settings: Settings,
    strict: bool,
    stats: Stats,
    /// How often the last message was answered again: each time differs, also with a fixed seed.
    retries: u64,
}

/// What a chat starts with.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// The model's name, for saved files.
    pub name: String,
    /// The system prompt.
    pub system: Option<String>,
    /// The settings given on the command line.
    pub settings: Settings,
    /// Refuse what does not fit the context.
    pub strict: bool,
}

/// What a command asks the caller to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Show this text.
    Say(String),
    /// Answer the last message again.
    Answer,
    /// End the chat.
    Quit,
}

/// A prompt that is ready to be answered.
#[derive(Debug)]
pub struct Ready {
    fitted: FittedPrompt,
    /// The user must know this: what was left out of the prompt.
    pub note: Option<String>,
    /// The prompt opened the model's thinking.
    pub inside_thinking: bool,
}

impl Chat {
    /// A chat in which nothing was said yet.
    pub fn new(model: LoadedModel, template: ChatTemplate, start: Start) -> anyhow::Result<Self> {
        check_template(&template, start.system.is_some(), start.settings.thinking)?;
        check_settings(&model, &start.settings)?;
        let Start { name, system, settings, strict } = start;
        let conversation = Conversation::new(system);
        Ok(Self { model, template, name, conversation, settings, strict, stats: Stats::default(), retries: 0 })
    }

    /// The conversation.
    pub fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    /// Tokens that prompt and answer may have together.
    pub fn context_len(&self) -> usize {
        self.model.context_len
    }

    /// Tokens that an answer may have, if the user said so.
    pub fn max_tokens(&self) -> Option<usize> {
        self.settings.sampling.max_tokens.map(|tokens| tokens as usize)
    }

    /// The user says something; [`Chat::prepare`] and [`Chat::answer`] follow.
    pub fn ask(&mut self, text: String) {
        self.retries = 0;
        self.conversation.ask(text);
    }

    /// Makes the prompt for the next answer. After an error the message is not part of the conversation.
    pub fn prepare(&mut self) -> anyhow::Result<Ready> {
        match self.fit() {
            Ok(fitted) => {
                let note = dropped_note(&fitted.report, self.model.context_len);
                let inside_thinking = opens_thinking(&fitted);
                Ok(Ready { fitted, note, inside_thinking })
            }
            Err(error) => {
                self.take_back();
                Err(error.into())
            }
        }
    }

    /// Answers. A stopped answer stays in the conversation, marked; one without any text, or an error, takes the message back.
    pub fn answer(&mut self, ready: Ready, follower: &mut impl Follower) -> Result<Answer, Failure> {
        let mut raw = request(ready.fitted.tokens, &self.settings.sampling, &self.model.defaults);
        raw.seed = raw.seed.map(|seed| seed.wrapping_add(self.retries));
        let valid = raw.validate(&self.model.engine.limits()).map_err(Failure::from);
        let outcome = valid.and_then(|valid| generate(&self.model.engine, valid, follower));
        let (stopped, answer) = match outcome {
            Ok(outcome) => (outcome.stopped, outcome.answers.into_iter().next().unwrap_or_default()),
            Err(error) => {
                self.take_back();
                return Err(error);
            }
        };
        self.stats.add(answer.usage, answer.reason.clone());
        if stopped && answer.text.is_empty() {
            self.take_back();
        } else {
            self.conversation.answer(answer.text.clone(), stopped);
        }
        Ok(answer)
    }

    /// Carries out a command. An error says what is wrong and changes nothing.
    pub fn carry_out(&mut self, command: Command) -> anyhow::Result<Reaction> {
        let said = match command {
            Command::Help => help(),
            Command::ShowSystem => match &self.conversation.state().system {
                Some(system) => format!("{system}\n"),
                None => "no system prompt; `/system TEXT` sets one\n".into(),
            },
            Command::System(system) => {
                check_template(&self.template, system.is_some(), None)?;
                let said = if system.is_some() {
                    "system prompt set; it holds from the next message on\n"
                } else {
                    "no system prompt\n"
                };
                self.conversation.set_system(system);
                said.into()
            }
            Command::ShowSettings(key) => self.show_settings(key.as_deref())?,
            Command::Set { key, value } => self.set(&key, &value)?,
            Command::Save(path) => self.save(&path)?,
            Command::Load(path) => self.load(&path)?,
            Command::Retry => {
                self.conversation.retry().map_err(anyhow::Error::msg)?;
                self.retries += 1;
                return Ok(Reaction::Answer);
            }
            Command::Undo => format!("took {} back\n", self.conversation.undo().map_err(anyhow::Error::msg)?),
            Command::Stats => self.stats.text(),
            Command::Context => self.context()?.text(),
            Command::Clear => {
                self.conversation.clear();
                "the conversation is forgotten (/undo brings it back)\n".into()
            }
            Command::Quit => return Ok(Reaction::Quit),
        };
        Ok(Reaction::Say(said))
    }

    fn fit(&self) -> qern_model::Result<FittedPrompt> {
        let rules = PromptRules { context_len: self.model.context_len, max_tokens: self.max_tokens(), strict: self.strict };
        let options = answer_options(self.settings.thinking);
        prompt(&conversation_of(self.conversation.state()), &self.template, &self.model.tokenizer, rules, &options)
    }

    fn take_back(&mut self) {
        // `ask` and `retry` always leave something to undo.
        let _ = self.conversation.undo();
    }

    fn set(&mut self, key: &str, value: &str) -> anyhow::Result<String> {
        let mut changed = self.settings.clone();
        changed.set(key, value).map_err(anyhow::Error::msg)?;
        check_template(&self.template, false, changed.thinking)?;
        check_settings(&self.model, &changed)?;
        self.settings = changed;
        self.show_settings(Some(key))
    }

    fn show_settings(&self, key: Option<&str>) -> anyhow::Result<String> {
        if let Some(key) = key {
            Settings::check_key(key).map_err(anyhow::Error::msg)?;
        }
        let thinking = match self.settings.thinking {
            Some(true) => ("on", "set by you"),
            Some(false) => ("off", "set by you"),
            None => ("as the template says", "default"),
        };
        let sampling = describe(&self.settings.sampling, &self.model.defaults);
        let rows = sampling.iter().map(|row| (row.key, row.value.as_str(), row.source.name()));
        let shown = rows.chain([("think", thinking.0, thinking.1)]).filter(|row| key.is_none_or(|key| key == row.0));
        let mut text: String = shown.map(|(key, value, source)| format!("  {key:<20} {value:<24} {source}\n")).collect();
        if let Some(meaning) = key.and_then(Settings::meaning) {
            text.push_str(&format!("  {meaning}\n"));
        }
        Ok(text)
    }

    fn save(&self, path: &Path) -> anyhow::Result<String> {
        let state = self.conversation.state().clone();
        let messages = state.turns.len();
        file::save(path, &SavedChat { model: self.name.clone(), state, settings: self.settings.clone() })?;
        Ok(format!("saved {messages} messages to {}\n", path.display()))
    }

    fn load(&mut self, path: &Path) -> anyhow::Result<String> {
        let saved = file::load(path)?;
        check_template(&self.template, saved.state.system.is_some(), saved.settings.thinking)?;
        check_settings(&self.model, &saved.settings)?;
        let mut said = format!("loaded {} messages from {}; /undo goes back\n", saved.state.turns.len(), path.display());
        if saved.model != self.name {
            said.push_str(&format!("note: they were exchanged with `{}`; `{}` goes on\n", saved.model, self.name));
        }
        self.conversation.replace(saved.state);
        self.settings = saved.settings;
        Ok(said)
    }

    /// What the next prompt will find in the context, before the next message.
    fn context(&self) -> anyhow::Result<ContextUse> {
        let state = self.conversation.state();
        let context_len = self.model.context_len;
        let system = match &state.system {
            Some(system) => self.model.tokenizer.encode(system, Specials::AsText)?.len(),
            None => 0,
        };
        if state.turns.is_empty() {
            return Ok(ContextUse { context_len, system, ..ContextUse::default() });
        }
        let report = self.fit()?.report;
        Ok(ContextUse {
            context_len,
            system,
            turns: report.prompt_tokens.saturating_sub(system),
            num_turns: state.turns.iter().filter(|turn| turn.speaker == Speaker::User).count() - report.dropped_turns,
            dropped: report.dropped_tokens,
            num_dropped: report.dropped_turns,
        })
    }
}

/// Refuses settings now that every answer would be refused for later.
fn check_settings(model: &LoadedModel, settings: &Settings) -> anyhow::Result<()> {
    request(vec![0], &settings.sampling, &model.defaults).validate(&model.engine.limits())?;
    Ok(())
}
