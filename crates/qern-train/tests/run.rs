//! The loop around the toy: it learns, it stops when it should, it refuses what is broken, and it goes on after any interruption
//! with the bits that it would have had.

mod toy;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use qern_train::checkpoint::{Identity, RunFolder};
use qern_train::config::TrainSettings;
use qern_train::data::{Item, Sequence};
use qern_train::random::{Draws, Purpose};
use qern_train::run::{AsIs, End, Happening, Objective, Outcome, RunParts, Verdict, run};
use qern_train::trainable::Trainable;
use qern_train::{Error, Result};
use serde_json::Value;
use toy::{Toy, VOCAB};

/// Sequences in which a token decides the next one but for some noise.
fn items(num: usize, seed: u64) -> Vec<Item> {
    let mut draws = Draws::new(seed, Purpose::Initial, 77);
    let item = |row| {
        let mut tokens = vec![draws.below(VOCAB) as u32];
        for _ in 0..2 + draws.below(6) {
            let last = tokens[tokens.len() - 1];
            tokens.push(if draws.uniform() < 0.1 { draws.below(VOCAB) as u32 } else { (last * 2 + 1) % 5 });
        }
        let is_trained = (0..tokens.len()).map(|index| index > 0).collect();
        Item { row, sequences: vec![Sequence { tokens, is_trained }] }
    };
    (1..=num as u64).map(item).collect()
}

fn settings() -> TrainSettings {
    TrainSettings {
        epochs: 4,
        batch_size: 4,
        run_tokens: 12,
        learning_rate: 0.15,
        evaluate_every: Some(5),
        checkpoint_every: Some(3),
        ..TrainSettings::default()
    }
}

struct Case {
    settings: TrainSettings,
    objective: Objective,
    train: Vec<Item>,
    held_out: Vec<Item>,
    model: Toy,
}

impl Default for Case {
    fn default() -> Self {
        let model = Toy::new(3).with_dropout(0.1);
        Self { settings: settings(), objective: Objective::Likelihood, train: items(30, 1), held_out: items(8, 2), model }
    }
}

impl Case {
    fn run(&mut self, dir: &Path, observe: &mut dyn FnMut(&Happening) -> Result<Verdict>) -> Result<Outcome> {
        let folder = RunFolder::open(dir)?;
        let identity: BTreeMap<String, Value> = [("rate".to_string(), self.settings.learning_rate.into())].into();
        let parts = RunParts {
            model: &mut self.model,
            train: &self.train,
            held_out: &self.held_out,
            objective: self.objective,
            settings: &self.settings,
            seed: 9,
            has_dropout: true,
            identity: Identity(identity),
            folder: &folder,
            adapter_config: b"{}".to_vec(),
            export: &AsIs,
        };
        run(parts, observe)
    }

    fn go(&mut self, dir: &Path) -> Result<Outcome> {
        self.run(dir, &mut |_| Ok(Verdict::GoOn))
    }
}

/// What a finished run left that must not depend on when it was interrupted: the adapter's bytes, the log without times.
fn left(dir: &Path) -> (Vec<u8>, Vec<Value>) {
    let log = fs::read_to_string(dir.join("train.jsonl")).unwrap();
    let lines = log.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for key in ["seconds", "tokens_per_second"] {
            line.as_object_mut().unwrap().remove(key);
        }
        line
    });
    (fs::read(dir.join("adapter_model.safetensors")).unwrap(), lines.collect())
}

fn uninterrupted() -> (Vec<u8>, Vec<Value>) {
    let dir = tempfile::tempdir().unwrap();
    Case::default().go(dir.path()).unwrap();
    left(dir.path())
}

#[test]
fn the_held_out_loss_falls_and_the_run_is_logged() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = Case::default().go(dir.path()).unwrap();
    assert_eq!((outcome.end, outcome.state.step), (End::Done, 32));
    let (first, last) = (outcome.state.first_held_out.unwrap(), outcome.state.best.unwrap().loss);
    assert!(last < 0.7 * first, "{first} to {last}");
    let (_, log) = left(dir.path());
    let steps: Vec<u64> =
        log.iter().filter(|line| line.get("loss").is_some()).map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=32).collect::<Vec<_>>());
    let evaluations = log.iter().filter(|line| line.get("held_out_loss").is_some());
    assert_eq!(evaluations.map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 5, 10, 15, 20, 25, 30, 32]);
}

#[test]
fn a_run_stopped_after_any_step_goes_on_to_the_same_bits() {
    let expected = uninterrupted();
    for stop in [1, 2, 7, 15, 31] {
        let dir = tempfile::tempdir().unwrap();
        let stopped = Case::default().run(dir.path(), &mut |happening| {
            let is_there = matches!(happening, Happening::Stepped(progress) if progress.step == stop);
            Ok(if is_there { Verdict::Stop } else { Verdict::GoOn })
        });
        assert_eq!(stopped.unwrap().end, End::Stopped);
        assert!(!dir.path().join("adapter_model.safetensors").exists());
        Case::default().go(dir.path()).unwrap();
        assert_eq!(left(dir.path()), expected, "stopped after step {stop}");
    }
}

/// Not a test of its own: the process that the next test kills. Says every step on stdout.
#[test]
fn child_of_the_kill_test() {
    let Some(dir) = std::env::var_os("QERN_TRAIN_KILL_TEST") else { return };
    let mut case = Case::default();
    case.settings.checkpoint_every = Some(1);
    case.run(Path::new(&dir), &mut |happening| {
        if let Happening::Stepped(progress) = happening {
            println!("STEP {}", progress.step);
        }
        Ok(Verdict::GoOn)
    })
    .unwrap();
}

#[test]
#[cfg(unix)]
fn twenty_kills_at_random_moments_change_no_bit() {
    let expected = uninterrupted();
    let dir = tempfile::tempdir().unwrap();
    let mut draws = Draws::new(20, Purpose::Initial, 0);
    let child = |dir: &Path| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child_of_the_kill_test", "--nocapture"]).env("QERN_TRAIN_KILL_TEST", dir);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    for _ in 0..20 {
        let mut child = child(dir.path());
        // A number of steps that this process saw, and some time: within a step, a checkpoint or a rename. At most two of the 32
        // steps each, so that most kills find a run that is not done.
        let num_steps = draws.below(3);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..num_steps {
            lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("STEP")));
        }
        std::thread::sleep(Duration::from_micros(draws.below(20_000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let mut last = child(dir.path());
    BufReader::new(last.stdout.take().unwrap()).lines().for_each(drop);
    assert!(last.wait().unwrap().success());
    assert_eq!(left(dir.path()), expected);
    let unfinished = fs::read_dir(dir.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with(".tmp-")
    });
    assert_eq!(unfinished.count(), 0);
}

#[test]
fn a_damaged_checkpoint_costs_steps_but_no_bit() {
    let expected = uninterrupted();
    let dir = tempfile::tempdir().unwrap();
    Case::default()
        .run(dir.path(), &mut |h| Ok(if matches!(h, Happening::Saved { step: 9 }) { Verdict::Stop } else { Verdict::GoOn }))
        .unwrap();
    let path = dir.path().join("checkpoint-000009/state.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 0x80;
    fs::write(&path, bytes).unwrap();
    let mut told = Vec::new();
    Case::default()
        .run(dir.path(), &mut |happening| {
            if let Happening::Started { step, notes, .. } = happening {
                told.push((*step, notes.join(" ")));
            }
            Ok(Verdict::GoOn)
        })
        .unwrap();
    assert!(told[0].0 < 9 && told[0].1.contains("`state.safetensors` is not what its manifest says"), "{told:?}");
    assert_eq!(left(dir.path()), expected);
}

#[test]
fn a_run_goes_on_only_as_it_was_begun() {
    let dir = tempfile::tempdir().unwrap();
    let mut case = Case::default();
    case.settings.steps = Some(3);
    case.go(dir.path()).unwrap();
    case.settings.learning_rate = 0.01;
    let message = case.go(dir.path()).unwrap_err().to_string();
    assert!(message.contains("`rate` was 0.15, and is now 0.01"), "{message}");
}

#[test]
fn what_is_not_finite_names_the_step_and_the_rows_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let mut case = Case { model: Toy::new(3).poisoned(17), held_out: Vec::new(), ..Case::default() };
    let is_poisoned = |item: &&Item| item.sequences[0].tokens[..item.sequences[0].tokens.len() - 1].contains(&17);
    assert!(case.train.iter().any(|item| is_poisoned(&item)));
    let error = case.go(dir.path()).unwrap_err();
    let Error::NonFinite { step, what, rows, .. } = &error else { panic!("{error}") };
    let poisoned: Vec<u64> = case.train.iter().filter(is_poisoned).map(|item| item.row).collect();
    assert_eq!(what, "the loss");
    assert!(
        *step >= 1 && rows.split([',', ' ']).filter_map(|row| row.parse().ok()).all(|row| poisoned.contains(&row)),
        "{error}"
    );
    assert!(!dir.path().join("adapter_model.safetensors").exists());
}

#[test]
fn training_stops_when_the_held_out_loss_no_longer_falls_and_keeps_the_best() {
    let dir = tempfile::tempdir().unwrap();
    let mut case = Case::default();
    // A rate at which it soon gets worse.
    case.settings.learning_rate = 3.0;
    case.settings.epochs = 50;
    case.settings.warmup = 0.3;
    case.settings.patience = Some(3);
    let outcome = case.go(dir.path()).unwrap();
    let best = outcome.state.best.unwrap();
    assert_eq!((outcome.end, outcome.state.num_without_gain), (End::Early, 3));
    assert_eq!(outcome.state.step, best.step + 15);
    assert_eq!(outcome.adapter_step, Some(best.step));
    let kept = fs::read(dir.path().join(format!("checkpoint-{:06}/adapter_model.safetensors", best.step))).unwrap();
    assert_eq!(fs::read(dir.path().join("adapter_model.safetensors")).unwrap(), kept);
    // Going on with a run that has stopped does nothing.
    let again = case.go(dir.path()).unwrap();
    assert_eq!((again.end, again.state.step), (End::Early, outcome.state.step));
}

#[test]
fn how_a_step_is_divided_changes_little_and_steps_of_tokens_work_too() {
    let loss = |change: fn(&mut TrainSettings)| {
        let dir = tempfile::tempdir().unwrap();
        let mut case = Case { model: Toy::new(3), ..Case::default() };
        change(&mut case.settings);
        case.go(dir.path()).unwrap().state.best.unwrap().loss
    };
    let whole = loss(|settings| settings.run_tokens = 1000);
    // The order of sequences is the same, and the sums are added in it.
    assert_eq!(loss(|settings| settings.run_tokens = 1), whole);
    let packed = loss(|settings| settings.batch_tokens = Some(20));
    assert!((packed / whole - 1.0).abs() < 0.2, "{packed}, {whole}");
}

#[test]
fn preferences_are_learnt() {
    let dir = tempfile::tempdir().unwrap();
    let pair = |(index, item): (usize, Item)| {
        let mut rejected = item.sequences[0].clone();
        *rejected.tokens.last_mut().unwrap() = 7 + (index % 20) as u32;
        Item { sequences: vec![item.sequences[0].clone(), rejected], ..item }
    };
    let pairs = |num, seed| items(num, seed).into_iter().enumerate().map(pair).collect::<Vec<_>>();
    let mut case =
        Case { objective: Objective::Preference { beta: 0.5 }, train: pairs(30, 1), held_out: pairs(9, 2), ..Case::default() };
    let mut accuracy = Vec::new();
    let outcome = case.run(dir.path(), &mut |happening| {
        if let Happening::Evaluated { score, .. } = happening {
            accuracy.push(score.preference_accuracy().unwrap());
        }
        Ok(Verdict::GoOn)
    });
    let state = outcome.unwrap().state;
    // Before the first step both models are the same: no preference, and a loss of ln 2.
    assert!((state.first_held_out.unwrap() - std::f64::consts::LN_2).abs() < 1e-6);
    assert!(state.best.unwrap().loss < 0.5 && accuracy.last().unwrap() > &0.8, "{state:?} {accuracy:?}");
}

#[test]
fn the_gradient_of_preferences_agrees_with_finite_differences() {
    use qern_train::trainable::{Gradients, TrainBatch};
    let mut model = Toy::new(5);
    model.values_mut(1).iter_mut().enumerate().for_each(|(i, value)| *value = 0.2 * (i % 5) as f32 - 0.3);
    model.values_changed().unwrap();
    let mut batch = TrainBatch::default();
    for (tokens, row) in [([1, 2, 3, 4], 1), ([1, 2, 9, 9], 1), ([8, 8, 1, 0], 2), ([8, 8, 30, 2], 2)] {
        batch.push(&tokens, &[0.0, 0.0, 1.0, 1.0], row);
    }
    let objective = Objective::Preference { beta: 0.7 };
    let mut gradients = Gradients::zeros(model.parameters());
    objective.accumulate(&mut model, &mut batch.clone(), &mut gradients).unwrap();
    for (id, index) in [(0, 0), (0, 7), (1, 2), (1, 18), (1, 60)] {
        let mut at = |delta: f32| {
            model.values_mut(id)[index] += delta;
            model.values_changed().unwrap();
            let loss = objective.evaluate(&mut model, &batch).unwrap().score.sum;
            model.values_mut(id)[index] -= delta;
            loss
        };
        let numeric = (at(5e-3) - at(-5e-3)) / 1e-2;
        let given = f64::from(gradients.get(id)[index]);
        assert!((numeric - given).abs() < 1e-3, "parameter {id}[{index}]: {given}, numerically {numeric}");
    }
}

#[test]
fn a_full_disk_stops_the_run_and_the_last_checkpoint_goes_on() {
    let expected = uninterrupted();
    let dir = tempfile::tempdir().unwrap();
    let blocked: PathBuf = dir.path().join(".tmp-checkpoint-000012");
    let failed = Case::default().run(dir.path(), &mut |happening| {
        // A file in the way fails the next checkpoint as a full disk would.
        if matches!(happening, Happening::Stepped(progress) if progress.step == 11) {
            fs::write(&blocked, "in the way").unwrap();
        }
        Ok(Verdict::GoOn)
    });
    assert!(failed.unwrap_err().to_string().contains("checkpoint-000012"));
    Case::default().go(dir.path()).unwrap();
    assert_eq!(left(dir.path()), expected);
}
