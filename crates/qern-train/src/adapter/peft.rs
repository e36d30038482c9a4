//! `adapter_config.json` of a trained adapter, as PEFT reads it unchanged. The tensors beside it carry PEFT's names already.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::AdapterSpec;
use crate::config::LoraSettings;

/// Of which base an adapter is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseName {
    /// A name that finds it again.
    pub name: String,
    /// Its fingerprint, against use on another base.
    pub fingerprint: Option<String>,
}

/// The file's contents. `linears` are the names of all linear layers of the model: modules are named shortly where that
/// selects the same ones.
pub fn peft_config(settings: &LoraSettings, spec: &AdapterSpec, linears: &[String], base: &BaseName) -> Value {
    let mut config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": settings.rank,
        "lora_alpha": number(settings.alpha()),
        "lora_dropout": settings.dropout,
        "target_modules": targets(spec, linears),
        "bias": "none",
        "use_rslora": settings.rslora,
        "use_dora": settings.dora,
        "rank_pattern": patterns(spec, |module| (module.rank != settings.rank).then(|| module.rank.into())),
        "alpha_pattern": patterns(spec, |module| {
            let alpha = alpha_of(settings, module);
            (alpha != settings.alpha()).then(|| number(alpha))
        }),
        "fan_in_fan_out": false,
        "modules_to_save": if spec.saved.is_empty() { Value::Null } else {
            spec.saved.iter().map(|saved| saved.name.trim_start_matches("model.")).collect()
        },
        "init_lora_weights": true,
        "inference_mode": true,
    });
    if let Some(fingerprint) = &base.fingerprint {
        config["qern_base"] = fingerprint.as_str().into();
    }
    config
}

/// The alpha behind a module's scale, free of the rounding that the scale went through.
fn alpha_of(settings: &LoraSettings, module: &super::ModuleSpec) -> f64 {
    let rank = module.rank as f64;
    let alpha = f64::from(module.scale) * if settings.rslora { rank.sqrt() } else { rank };
    let known = settings.alpha_pattern.values().copied().chain([settings.alpha()]);
    known.min_by(|a, b| (a - alpha).abs().total_cmp(&(b - alpha).abs())).unwrap_or(alpha)
}

/// A whole number as one: PEFT declares alpha an integer.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 { json!(value as i64) } else { json!(value) }
}

/// Names that select the trained modules and no other: `q_proj` where every layer's is trained, else whole names.
fn targets(spec: &AdapterSpec, linears: &[String]) -> Vec<String> {
    let short = |name: &str| name.rsplit('.').next().unwrap_or(name).to_string();
    let trained: BTreeSet<&str> = spec.modules.iter().map(|module| module.name.as_str()).collect();
    let untrained: BTreeSet<String> =
        linears.iter().filter(|name| !trained.contains(name.as_str())).map(|name| short(name)).collect();
    let names: BTreeSet<String> =
        (trained.iter()).map(|name| if untrained.contains(&short(name)) { name.to_string() } else { short(name) }).collect();
    names.into_iter().collect()
}

fn patterns(spec: &AdapterSpec, value: impl Fn(&super::ModuleSpec) -> Option<Value>) -> Map<String, Value> {
    spec.modules.iter().filter_map(|module| Some((module.name.clone(), value(module)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::ModuleSpec;
    use super::*;

    fn module(name: &str, rank: usize, scale: f32) -> ModuleSpec {
        ModuleSpec { name: name.into(), in_features: 4, out_features: 4, rank, scale, dora: false }
    }

    #[test]
    fn modules_are_named_as_shortly_as_selects_them_alone() {
        let check = |trained: &[&str], expected: &[&str]| {
            let linears = ["model.layers.0.q_proj", "model.layers.0.k_proj", "model.layers.1.q_proj", "model.layers.1.k_proj"];
            let modules = trained.iter().map(|name| module(name, 8, 2.0)).collect();
            let spec = AdapterSpec { modules, ..AdapterSpec::default() };
            assert_eq!(targets(&spec, &linears.map(String::from)), expected);
        };
        check(&["model.layers.0.q_proj", "model.layers.1.q_proj"], &["q_proj"]);
        check(&["model.layers.0.q_proj"], &["model.layers.0.q_proj"]);
        check(&["model.layers.0.q_proj", "model.layers.1.q_proj", "model.layers.1.k_proj"], &["model.layers.1.k_proj", "q_proj"]);
    }

    #[test]
    fn patterns_name_what_differs_from_the_rule() {
        let settings = LoraSettings { rank: 8, alpha_pattern: [("x".to_string(), 5.0)].into(), ..LoraSettings::default() };
        let modules = vec![module("a.q_proj", 8, 2.0), module("b.q_proj", 4, 4.0), module("c.q_proj", 3, 5.0 / 3.0)];
        let spec = AdapterSpec { modules, ..AdapterSpec::default() };
        let base = BaseName { name: "m".into(), fingerprint: Some("f".into()) };
        let config = peft_config(&settings, &spec, &[], &base);
        assert_eq!(config["rank_pattern"], json!({"b.q_proj": 4, "c.q_proj": 3}));
        assert_eq!(config["alpha_pattern"], json!({"c.q_proj": 5}));
        assert_eq!((&config["lora_alpha"], &config["r"], &config["qern_base"]), (&json!(16), &json!(8), &json!("f")));
        assert_eq!(config["modules_to_save"], Value::Null);
    }
}
