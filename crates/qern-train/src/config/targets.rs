//! Names and patterns to modules: which linear layers of a model get an adapter, of which rank and scale. `*` in a pattern stands
//! for any text; a pattern matches a module's whole name, or the end of it behind a dot, as in PEFT.

use qern_model::checkpoint::expected_tensors;
use qern_model::config::ModelConfig;

use super::LoraSettings;
use crate::adapter::{AdapterSpec, ModuleSpec, SavedModule};
use crate::{Error, Result};

/// All linear layers within the layers: not the embedding, not the head.
pub const ALL_LINEAR: &str = "all-linear";

/// A linear layer of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Its name in the checkpoint: `model.layers.3.self_attn.q_proj`.
    pub name: String,
    /// Values of its input.
    pub in_features: usize,
    /// Values of its output.
    pub out_features: usize,
}

/// The linear layers within a model's layers, in the order in which a forward pass meets them.
pub fn linear_modules(config: &ModelConfig) -> Vec<Linear> {
    let tensors = expected_tensors(config).into_iter();
    let linears = tensors.filter(|tensor| tensor.name.ends_with("_proj.weight"));
    linears
        .map(|tensor| Linear {
            name: tensor.name.trim_end_matches(".weight").into(),
            in_features: tensor.cols,
            out_features: tensor.rows,
        })
        .collect()
}

/// What the settings ask for, on this model.
pub fn resolve(settings: &LoraSettings, config: &ModelConfig) -> Result<AdapterSpec> {
    let linears = linear_modules(config);
    let short = |name: &str| name.rsplit('.').next().unwrap_or(name).to_string();
    let known = || {
        let mut names: Vec<String> = Vec::new();
        linears.iter().map(|linear| short(&linear.name)).for_each(|name| {
            if !names.contains(&name) {
                names.push(name);
            }
        });
        names
    };
    let patterns = settings.targets.iter().map(|target| ("lora.targets", target));
    let patterns = patterns.chain(settings.rank_pattern.keys().map(|pattern| ("lora.rank_pattern", pattern)));
    let mut patterns = patterns.chain(settings.alpha_pattern.keys().map(|pattern| ("lora.alpha_pattern", pattern)));
    if let Some((key, pattern)) = patterns.find(|(_, p)| !linears.iter().any(|linear| is_match(p, &linear.name))) {
        return Err(Error::Config(format!(
            "`{key}` must match modules of the model; `{pattern}` matches none; there are {}, in layers such as `{}`",
            known().join(", "),
            linears.first().map_or("", |linear| &linear.name)
        )));
    }
    let mut spec = AdapterSpec { dropout: settings.dropout as f32, ..AdapterSpec::default() };
    for linear in linears.iter().filter(|linear| settings.targets.iter().any(|target| is_match(target, &linear.name))) {
        let rank = *pattern_value(&settings.rank_pattern, "lora.rank_pattern", &linear.name)?.unwrap_or(&settings.rank);
        let alpha = *pattern_value(&settings.alpha_pattern, "lora.alpha_pattern", &linear.name)?.unwrap_or(&settings.alpha());
        let scale = alpha / if settings.rslora { (rank as f64).sqrt() } else { rank as f64 };
        let Linear { name, in_features, out_features } = linear.clone();
        spec.modules.push(ModuleSpec { name, in_features, out_features, rank, scale: scale as f32, dora: settings.dora });
    }
    for name in &settings.modules_to_save {
        let full = match name.trim_start_matches("model.") {
            "embed_tokens" => "model.embed_tokens",
            "lm_head" => "lm_head",
            _ => {
                let rule = "`lora.modules_to_save` must be of `embed_tokens` and `lm_head`";
                return Err(Error::Config(format!("{rule}; given `{name}`")));
            }
        };
        let weight = format!("{full}.weight");
        let tensor = expected_tensors(config).into_iter().find(|tensor| tensor.name == weight).ok_or_else(|| {
            Error::Config(format!("`lora.modules_to_save`: the model has no `{name}` of its own (its head is its embedding)"))
        })?;
        if spec.saved.iter().any(|saved| saved.name == full) {
            return Err(Error::Config(format!("`lora.modules_to_save` must name a module once; `{name}` comes twice")));
        }
        spec.saved.push(SavedModule { name: full.into(), shape: [tensor.rows, tensor.cols] });
    }
    Ok(spec)
}

/// The value of the one pattern that matches.
fn pattern_value<'a, T>(patterns: &'a std::collections::BTreeMap<String, T>, key: &str, name: &str) -> Result<Option<&'a T>> {
    let mut matching = patterns.iter().filter(|(pattern, _)| is_match(pattern, name));
    match (matching.next(), matching.next()) {
        (Some((first, _)), Some((second, _))) => {
            Err(Error::Config(format!("`{key}`: one pattern may match a module; `{first}` and `{second}` both match `{name}`")))
        }
        (found, _) => Ok(found.map(|(_, value)| value)),
    }
}

/// Whether a pattern matches a module's name, or the end of it behind a dot.
fn is_match(pattern: &str, name: &str) -> bool {
    pattern == ALL_LINEAR || glob(pattern, name) || name.match_indices('.').any(|(at, _)| glob(pattern, &name[at + 1..]))
}

/// Whether `*` can stand for texts so that the pattern is the name. Linear in both but for one step back: the last star takes
/// as little as it can.
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, n) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_and_their_ends() {
        let check = |pattern: &str, expected: bool| {
            assert_eq!(is_match(pattern, "model.layers.3.self_attn.q_proj"), expected, "{pattern}")
        };
        check("q_proj", true);
        check("self_attn.q_proj", true);
        check("model.layers.3.self_attn.q_proj", true);
        check("model.layers.*.q_proj", true);
        check("layers.3.*", true);
        check("*", true);
        check("*attn*", true);
        check(ALL_LINEAR, true);
        check("proj", false);
        check("_proj", false);
        check("k_proj", false);
        check("layers.1.*", false);
        check("", false);
        check("*.mlp.*", false);
    }
}
