//! The commands of the chat: which exist, and how a line becomes one. Not what they do.

use std::path::PathBuf;

/// What the user asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A message for the model.
    Message(String),
    /// A command for the program.
    Command(Command),
}

/// A command of the chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// List the commands.
    Help,
    /// Show the system prompt.
    ShowSystem,
    /// Replace the system prompt; `None` removes it.
    System(Option<String>),
    /// Show every setting, or one.
    ShowSettings(Option<String>),
    /// Change a setting.
    Set {
        /// The flag's name without dashes.
        key: String,
        /// The new value as typed.
        value: String,
    },
    /// Write the conversation to a file.
    Save(PathBuf),
    /// Continue the conversation of a file.
    Load(PathBuf),
    /// Answer the last message again.
    Retry,
    /// Take the last change back.
    Undo,
    /// Tokens and speed of the last answer and of the chat.
    Stats,
    /// What fills the context.
    Context,
    /// Forget the conversation; system prompt and settings stay.
    Clear,
    /// End the chat.
    Quit,
}

/// One row per command: name, arguments, help.
pub const COMMANDS: [(&str, &str, &str); 12] = [
    ("/help", "", "list the commands"),
    ("/system", "[TEXT]", "show the system prompt, or replace it (`/system none` removes it)"),
    ("/set", "[KEY [VALUE]]", "show the settings, or change one (`/set KEY default` goes back)"),
    ("/save", "FILE", "write the conversation and its settings to a file"),
    ("/load", "FILE", "go on with the conversation of a file"),
    ("/retry", "", "answer the last message again"),
    ("/undo", "", "take the last change back: a turn, a retry, a /clear, a /system, a /load"),
    ("/stats", "", "tokens and speed of the last answer"),
    ("/context", "", "what fills the model's context"),
    ("/clear", "", "forget the conversation; system prompt and settings stay"),
    ("/quit", "", "end the chat (so does Ctrl-D)"),
    ("//TEXT", "", "send a message that starts with a slash"),
];

/// Other names that people try.
const ALIASES: [(&str, &str); 8] = [
    ("/?", "/help"),
    ("/exit", "/quit"),
    ("/bye", "/quit"),
    ("/q", "/quit"),
    ("/reset", "/clear"),
    ("/new", "/clear"),
    ("/regenerate", "/retry"),
    ("/settings", "/set"),
];

/// Reads what the user typed. An error says what is wrong and what to type.
pub fn parse(line: &str) -> Result<Entry, String> {
    let line = line.trim();
    if let Some(message) = line.strip_prefix("//") {
        return Ok(Entry::Message(format!("/{message}")));
    }
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    // `/usr/bin/env does not start` is about a path.
    if !line.starts_with('/') || word[1..].contains('/') {
        return Ok(Entry::Message(line.to_string()));
    }
    let lower = word.to_lowercase();
    let name = ALIASES.iter().find(|(alias, _)| *alias == lower).map_or(lower.as_str(), |(_, name)| name);
    command(name, rest.trim()).map(Entry::Command)
}

/// The text of `/help`.
pub fn help() -> String {
    let mut text = String::new();
    for (name, arguments, meaning) in COMMANDS {
        text.push_str(&format!("  {:<22} {meaning}\n", format!("{name} {arguments}")));
    }
    text.push_str("\nA line that ends in \\ goes on in the next; \"\"\" starts and ends a message of several lines.\n");
    text.push_str("Ctrl-C stops the answer or clears the line, Tab completes commands, the arrow keys recall messages.\n");
    text
}

fn command(name: &str, rest: &str) -> Result<Command, String> {
    let command = match name {
        "/help" => return Ok(Command::Help),
        "/system" => return Ok(system(rest)),
        "/set" => return Ok(setting(rest)),
        "/save" => return file(name, rest).map(Command::Save),
        "/load" => return file(name, rest).map(Command::Load),
        "/retry" => Command::Retry,
        "/undo" => Command::Undo,
        "/stats" => Command::Stats,
        "/context" => Command::Context,
        "/clear" => Command::Clear,
        "/quit" => Command::Quit,
        _ => return Err(unknown(name)),
    };
    if rest.is_empty() { Ok(command) } else { Err(format!("{name} takes nothing after it; given `{rest}`")) }
}

fn system(rest: &str) -> Command {
    match rest {
        "" => Command::ShowSystem,
        "none" => Command::System(None),
        text => Command::System(Some(text.to_string())),
    }
}

fn setting(rest: &str) -> Command {
    let rest = rest.trim_start_matches("--");
    match rest.split_once(|ch: char| ch.is_whitespace() || ch == '=') {
        _ if rest.is_empty() => Command::ShowSettings(None),
        Some((key, value)) if !value.trim().is_empty() => {
            Command::Set { key: normal_key(key), value: value.trim().trim_start_matches("= ").to_string() }
        }
        Some((key, _)) => Command::ShowSettings(Some(normal_key(key))),
        None => Command::ShowSettings(Some(normal_key(rest))),
    }
}

/// Flag names have dashes; `top_p` is what other programs call them.
fn normal_key(key: &str) -> String {
    key.to_lowercase().replace('_', "-")
}

fn file(name: &str, rest: &str) -> Result<PathBuf, String> {
    let unquoted = ['"', '\''].iter().find_map(|quote| rest.strip_prefix(*quote)?.strip_suffix(*quote)).unwrap_or(rest);
    if unquoted.is_empty() {
        return Err(format!("{name} needs a file, as in `{name} chat.json`"));
    }
    match (unquoted.strip_prefix("~/"), std::env::home_dir()) {
        (Some(below), Some(home)) => Ok(home.join(below)),
        _ => Ok(PathBuf::from(unquoted)),
    }
}

fn unknown(name: &str) -> String {
    let known = COMMANDS.iter().map(|(name, ..)| *name).filter(|known| !known.starts_with("//"));
    match nearest(name, known) {
        Some(near) => format!("there is no command {name}; did you mean {near}? (/help lists them, //... sends text)"),
        None => format!("there is no command {name}; /help lists them, and `/{name}` sends it as text"),
    }
}

/// The candidate that `word` begins, or else the one most like it, if any is.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let begun = candidates.iter().filter(|candidate| word.len() >= 3 && candidate.starts_with(word));
    if let Some(candidate) = begun.min_by_key(|candidate| candidate.len()) {
        return Some(candidate);
    }
    let scored = candidates.into_iter().map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate));
    let (distance, candidate) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= 2 && distance * 2 < candidate.len()).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(line: &str, expected: &str) {
        assert_eq!(parse(line), Ok(Entry::Message(expected.into())), "{line:?}");
    }

    fn command(line: &str, expected: Command) {
        assert_eq!(parse(line), Ok(Entry::Command(expected)), "{line:?}");
    }

    fn refused(line: &str, expected: &str) {
        assert_eq!(parse(line), Err(expected.into()), "{line:?}");
    }

    fn set(key: &str, value: &str) -> Command {
        Command::Set { key: key.into(), value: value.into() }
    }

    #[test]
    fn a_line_is_a_message_unless_it_starts_with_a_slash() {
        message("hello /help", "hello /help");
        message("  hello\nthere ", "hello\nthere");
        message("//help", "/help");
        message("/usr/bin/env: not found", "/usr/bin/env: not found");
    }

    #[test]
    fn commands_read_their_arguments() {
        command("/help", Command::Help);
        command("/HELP", Command::Help);
        command("/exit", Command::Quit);
        command("/system", Command::ShowSystem);
        command("/system You are\nterse.", Command::System(Some("You are\nterse.".into())));
        command("/system none", Command::System(None));
        command("/set", Command::ShowSettings(None));
        command("/set top-p", Command::ShowSettings(Some("top-p".into())));
        command("/set top_p 0.9", set("top-p", "0.9"));
        command("/set --top-p=0.9", set("top-p", "0.9"));
        command("/set stop a b", set("stop", "a b"));
        command("/save my chat.json", Command::Save("my chat.json".into()));
        command("/load \"a b.json\"", Command::Load("a b.json".into()));
        command("/undo", Command::Undo);
    }

    #[test]
    fn what_cannot_be_read_says_what_to_type() {
        refused("/hlep", "there is no command /hlep; did you mean /help? (/help lists them, //... sends text)");
        refused("/cont", "there is no command /cont; did you mean /context? (/help lists them, //... sends text)");
        refused("/frobnicate x", "there is no command /frobnicate; /help lists them, and `//frobnicate` sends it as text");
        refused("/", "there is no command /; /help lists them, and `//` sends it as text");
        refused("/save", "/save needs a file, as in `/save chat.json`");
        refused("/undo 3", "/undo takes nothing after it; given `3`");
    }

    #[test]
    fn every_listed_command_can_be_read() {
        for (name, arguments, _) in COMMANDS.iter().filter(|(name, ..)| !name.starts_with("//")) {
            let line = if arguments.is_empty() { (*name).to_string() } else { format!("{name} x") };
            assert!(matches!(parse(&line), Ok(Entry::Command(_))), "{line}");
        }
    }
}
