//! TOML tables to settings: merged, every key known, every value of its type and within its rule.

use std::path::Path;

use serde_json::Value;
use toml::Table;

use super::{Settings, check, json};
use crate::{Error, Result};

/// Puts the values of `over` over those of `table`, section by section.
pub fn merge(table: &mut Table, over: Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            // `columns`, `rank_pattern` and the like are values: a flag replaces them whole.
            (Some(toml::Value::Table(section)), toml::Value::Table(values)) if SECTIONS.contains(&key.as_str()) => {
                merge(section, values);
            }
            (_, value) => _ = table.insert(key, value),
        }
    }
}

const SECTIONS: [&str; 4] = ["data", "lora", "train", "report"];

/// The settings that a table gives, the defaults elsewhere. `file` is where it came from, for messages.
pub fn settings_of(table: Table, file: Option<&Path>) -> Result<Settings> {
    let place = file.map_or(String::new(), |file| format!("`{}`: ", file.display()));
    let config = |message: String| Error::Config(format!("{place}{message}"));
    check_keys(&table, &json(&Settings::default()), "").map_err(config)?;
    // The paths of fields are in toml's messages, for they begin a line of their own.
    let settings: Settings = table
        .try_into()
        .map_err(|error: toml::de::Error| Error::Config(format!("{place}{}", error.to_string().trim().replace('\n', " "))))?;
    check::check(&settings).map_err(|message| Error::Config(format!("{place}{message}")))?;
    Ok(settings)
}

/// Refuses keys that the defaults do not have, naming the nearest.
fn check_keys(table: &Table, known: &Value, section: &str) -> Result<(), String> {
    let Value::Object(known) = known else { return Ok(()) };
    for (key, value) in table {
        let name = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
        match (known.get(key), value) {
            (Some(inner), toml::Value::Table(table)) if SECTIONS.contains(&name.as_str()) => check_keys(table, inner, &name)?,
            (Some(_), _) if SECTIONS.contains(&name.as_str()) => {
                return Err(format!("`{name}` must be a section, `[{name}]`; given {value}"));
            }
            (Some(_), _) => {}
            (None, _) => {
                return Err(format!("`{}` is no setting{}", name.escape_debug(), nearest(key, &name)));
            }
        }
    }
    Ok(())
}

/// The setting that was likely meant: the one with the nearest name in any section.
fn nearest(key: &str, full: &str) -> String {
    let Value::Object(all) = json(&Settings::default()) else { return String::new() };
    let mut names: Vec<String> = Vec::new();
    for (name, value) in &all {
        match value {
            Value::Object(inner) if SECTIONS.contains(&name.as_str()) => {
                names.push(name.clone());
                names.extend(inner.keys().map(|key| format!("{name}.{key}")));
            }
            _ => names.push(name.clone()),
        }
    }
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_string();
    let likeness = |name: &String| {
        let by_key = strsim::jaro_winkler(key, &last(name));
        // Of equally near keys, the one in the section given.
        by_key + 0.01 * strsim::jaro_winkler(full, name)
    };
    let best = names.into_iter().map(|name| (likeness(&name), name)).max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(likeness, _)| *likeness > 0.8).map_or(String::new(), |(_, name)| format!("; did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::super::HeldOut;
    use super::*;

    fn read(text: &str) -> Result<Settings> {
        settings_of(text.parse().unwrap(), Some(Path::new("c.toml")))
    }

    #[test]
    fn flags_go_over_the_file_and_the_file_over_the_defaults() {
        let mut table: Table =
            "model = \"m\"\n[lora]\nrank = 8\ntargets = [\"q_proj\"]\n[data]\ncolumns = {prompt = \"b\"}".parse().unwrap();
        merge(&mut table, "[lora]\nrank = 4\n[data]\ncolumns = {text = \"d\"}\n[train]\nepochs = 1".parse().unwrap());
        let settings = settings_of(table, None).unwrap();
        assert_eq!((settings.lora.rank, settings.lora.targets, settings.train.epochs), (4, vec!["q_proj".into()], 1));
        assert_eq!((settings.model.as_deref(), settings.seed, settings.lora.alpha), (Some("m"), 42, None));
        assert_eq!(settings.data.columns, [("text".to_string(), "d".to_string())].into());
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same_settings() {
        let text = "model = \"m\"\n[data]\nheld_out = 50\ntrain_on = \"every-turn\"\n[lora]\nrank_pattern = {\"layers.0.*\" = 4}\n\
                    [train]\ndecay = \"linear\"\nsteps = 7";
        let settings = read(text).unwrap();
        assert_eq!(settings.data.held_out, HeldOut::Number(50));
        assert_eq!(read(&settings.to_toml()).unwrap(), settings);
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest_one() {
        let check = |text: &str, expected: &str| assert_eq!(read(text).unwrap_err().to_string(), format!("`c.toml`: {expected}"));
        check("[lora]\nrnk = 8", "`lora.rnk` is no setting; did you mean `lora.rank`?");
        check("rank = 8", "`rank` is no setting; did you mean `lora.rank`?");
        check("[train]\nlearningrate = 1", "`train.learningrate` is no setting; did you mean `train.learning_rate`?");
        check("[trian]\nepochs = 1", "`trian` is no setting; did you mean `train`?");
        check("zzz = 1", "`zzz` is no setting");
        check("data = \"x\"", "`data` must be a section, `[data]`; given \"x\"");
    }

    #[test]
    fn values_out_of_their_rule_are_refused() {
        let check = |text: &str, expected: &str| {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        };
        check("[lora]\nrank = 0", "`lora.rank` must be from 1 to 4096; given 0");
        check("[lora]\nrank = \"x\"", "invalid type: string \"x\"");
        check("[lora]\ndropout = 1.0", "`lora.dropout` must be at least 0 and below 1; given 1");
        check("[lora]\ntargets = []", "`lora.targets` must name at least one module");
        check("[train]\nlearning_rate = nan", "`train.learning_rate` must be above 0 and at most 10; given NaN");
        check("[train]\ndecay = \"fast\"", "unknown variant `fast`");
        check("[train]\nbatch_size = 0", "`train.batch_size` must be from 1");
        check("[data]\nheld_out = 1.5", "`data.held_out` must be a part below 1 or a whole number");
        check("[data]\nheld_out = -1", "`data.held_out`");
        check("[data]\ncolumns = {x = \"y\"}", "`data.columns` must name columns that examples have");
        check("[data]\nraw = true\nsystem = \"s\"", "`data.system` must be left out with `data.raw`");
    }
}
