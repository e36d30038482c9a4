//! The sampling settings of a chat, by their flags' names: the same parser, rules and messages as on the command line.
//! Not what a setting does, and not the defaults: `generation` resolves those.

use std::collections::BTreeMap;

use clap::{Args, Command, FromArgMatches};

use super::command::nearest;
use crate::cli::SamplingArgs;

/// Settings that were asked for; everything else is at its default.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The sampling flags.
    pub sampling: SamplingArgs,
    /// Whether a model that can think does so; `None` as its template says.
    pub thinking: Option<bool>,
}

/// Flags that make no sense in a conversation, where there is one answer and it is read, not scored.
const NOT_IN_CHAT: [&str; 5] = ["n", "logprobs", "beams", "length-penalty", "ignore-eos"];
/// The one setting that is no sampling flag.
const THINK: &str = "think";
const DEFAULT: &str = "default";

impl Settings {
    /// The names of all settings.
    pub fn keys() -> Vec<String> {
        let command = flags();
        let longs = command.get_arguments().filter_map(|arg| arg.get_long());
        longs.filter(|long| !NOT_IN_CHAT.contains(long)).chain([THINK]).map(String::from).collect()
    }

    /// What a setting is for.
    pub fn meaning(key: &str) -> Option<String> {
        if key == THINK {
            return Some("Let a model that can think do so before it answers: on, off or default".into());
        }
        let command = flags();
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(key))?;
        arg.get_help().map(ToString::to_string)
    }

    /// Changes a setting to `value` as the command line would read it; `default` removes it. Lists take one value.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        Self::check_key(key)?;
        if key == THINK {
            self.thinking = switch(key, value)?;
            return Ok(());
        }
        let mut given = self.given();
        match value {
            DEFAULT => drop(given.remove(key)),
            _ => drop(given.insert(key.to_string(), vec![value.to_string()])),
        }
        self.sampling = parse(&given)?;
        Ok(())
    }

    /// Everything that was set, by name, as the command line would take it.
    pub fn given(&self) -> BTreeMap<String, Vec<String>> {
        let mut given = BTreeMap::new();
        for (key, values) in values(&self.sampling) {
            if !values.is_empty() {
                given.insert(key.to_string(), values);
            }
        }
        given
    }

    /// The settings with these values, checked.
    pub fn from_given(given: &BTreeMap<String, Vec<String>>, thinking: Option<bool>) -> Result<Self, String> {
        given.keys().try_for_each(|key| Self::check_key(key))?;
        Ok(Self { sampling: parse(given)?, thinking })
    }

    /// Refuses what is no setting of a chat.
    pub fn check_key(key: &str) -> Result<(), String> {
        if NOT_IN_CHAT.contains(&key) {
            return Err(format!("`{key}` has no meaning in a chat; use it with `qern run`"));
        }
        let keys = Self::keys();
        if keys.iter().any(|known| known == key) {
            return Ok(());
        }
        let hint = nearest(key, keys.iter().map(String::as_str)).map_or(String::new(), |near| format!("did you mean `{near}`? "));
        Err(format!("there is no setting `{key}`; {hint}`/set` lists them"))
    }
}

fn flags() -> Command {
    SamplingArgs::augment_args(Command::new("set").no_binary_name(true))
}

fn parse(given: &BTreeMap<String, Vec<String>>) -> Result<SamplingArgs, String> {
    let mut line = Vec::new();
    for (key, values) in given {
        for value in values {
            if key == "mirostat" {
                line.extend(switch(key, value)?.unwrap_or(false).then(|| "--mirostat".to_string()));
            } else {
                line.push(format!("--{key}={value}"));
            }
        }
    }
    let parsed = flags().try_get_matches_from(line).and_then(|matches| SamplingArgs::from_arg_matches(&matches));
    parsed.map_err(|error| {
        // The first paragraph is the finding, the rest is about the command line.
        let text = error.to_string();
        let finding = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        finding.split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

fn switch(key: &str, value: &str) -> Result<Option<bool>, String> {
    match value {
        "on" | "true" | "yes" | "1" => Ok(Some(true)),
        "off" | "false" | "no" | "0" => Ok(Some(false)),
        DEFAULT => Ok(None),
        _ => Err(format!("`{key}` must be on, off or default; given `{value}`")),
    }
}

/// Every flag with the values it has, empty if it was not given.
fn values(args: &SamplingArgs) -> Vec<(&'static str, Vec<String>)> {
    fn one<T: ToString>(value: &Option<T>) -> Vec<String> {
        value.iter().map(ToString::to_string).collect()
    }
    vec![
        ("temperature", one(&args.temperature)),
        ("top-k", one(&args.top_k)),
        ("top-p", one(&args.top_p)),
        ("min-p", one(&args.min_p)),
        ("typical-p", one(&args.typical_p)),
        ("seed", one(&args.seed)),
        ("repetition-penalty", one(&args.repetition_penalty)),
        ("presence-penalty", one(&args.presence_penalty)),
        ("frequency-penalty", one(&args.frequency_penalty)),
        ("penalty-window", one(&args.penalty_window)),
        ("dry-multiplier", one(&args.dry_multiplier)),
        ("dry-base", one(&args.dry_base)),
        ("dry-allowed-length", one(&args.dry_allowed_length)),
        ("dry-window", one(&args.dry_window)),
        ("dry-breaker", args.dry_breaker.clone()),
        ("xtc-probability", one(&args.xtc_probability)),
        ("xtc-threshold", one(&args.xtc_threshold)),
        ("mirostat", one(&args.mirostat.then_some("on"))),
        ("mirostat-tau", one(&args.mirostat_tau)),
        ("mirostat-eta", one(&args.mirostat_eta)),
        ("logit-bias", args.logit_bias.iter().map(|(id, bias)| format!("{id}={bias}")).collect()),
        ("stop", args.stop.clone()),
        ("max-tokens", one(&args.max_tokens)),
        ("min-tokens", one(&args.min_tokens)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(key: &str, value: &str, expected: &str) {
        let error = Settings::default().set(key, value).expect_err("should be refused");
        assert_eq!(error, expected, "/set {key} {value}");
    }

    #[test]
    fn a_setting_is_what_the_command_line_would_make_of_it() {
        let mut settings = Settings::default();
        settings.set("temperature", "0.7").unwrap();
        settings.set("presence-penalty", "-1").unwrap();
        settings.set("stop", "-- end").unwrap();
        settings.set("logit-bias", "5=-100").unwrap();
        settings.set("mirostat", "on").unwrap();
        settings.set("mirostat-tau", "4").unwrap();
        assert_eq!(settings.sampling.temperature, Some(0.7));
        assert_eq!(settings.sampling.presence_penalty, Some(-1.0));
        assert_eq!(settings.sampling.stop, ["-- end"]);
        assert_eq!(settings.sampling.logit_bias, [(5, -100.0)]);
        assert!(settings.sampling.mirostat);
        settings.set("temperature", "default").unwrap();
        assert_eq!(settings.sampling.temperature, None);
        settings.set("think", "off").unwrap();
        assert_eq!(settings.thinking, Some(false));
    }

    #[test]
    fn refusals_name_the_setting_and_the_rule() {
        refused("top-p", "3", "invalid value '3' for '--top-p <P>': must be a number from 0 to 1");
        refused("temprature", "1", "there is no setting `temprature`; did you mean `temperature`? `/set` lists them");
        refused("quux", "1", "there is no setting `quux`; `/set` lists them");
        refused("beams", "4", "`beams` has no meaning in a chat; use it with `qern run`");
        refused("mirostat", "2.5", "`mirostat` must be on, off or default; given `2.5`");
        refused("think", "maybe", "`think` must be on, off or default; given `maybe`");
    }

    #[test]
    fn a_refused_value_changes_nothing() {
        let mut settings = Settings::default();
        settings.set("top-k", "20").unwrap();
        assert!(settings.set("mirostat", "on").is_err());
        assert_eq!(settings.given(), BTreeMap::from([("top-k".to_string(), vec!["20".to_string()])]));
    }

    #[test]
    fn every_flag_can_be_written_down_and_read_back() {
        let listed: Vec<_> = values(&SamplingArgs::default()).into_iter().map(|(key, _)| key.to_string()).collect();
        let mut expected = Settings::keys();
        expected.retain(|key| key != THINK);
        assert_eq!(listed, expected, "`values` must list the flags of `SamplingArgs` in their order");
        assert!(expected.iter().all(|key| Settings::meaning(key).is_some()));
    }
}
