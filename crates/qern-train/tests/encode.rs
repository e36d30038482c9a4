//! Loss masks by real templates: what is learnt is what the model would have to say after the prompt that it is served with.

use std::path::Path;

use qern_model::template::{ChatTemplate, TemplateOptions};
use qern_model::tokenizer::Tokenizer;
use qern_train::data::{Dataset, Encoder, LoadSettings, Reading, TrainOn, load};
use serde_json::Value;

fn reference(path: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens").join(path)).unwrap()
}

fn encoder(template: &str) -> Encoder {
    let tokenizer = Tokenizer::from_json(&reference("tokenization/qwen3-pruned-tokenizer.json")).unwrap();
    let eos = vec![tokenizer.token_to_id("<|im_end|>").unwrap()];
    let template = ChatTemplate::new(template, tokenizer.template_tokens()).unwrap();
    let options = TemplateOptions::default();
    Encoder { tokenizer, template: Some(template), eos, options, train_on: TrainOn::Assistant, max_tokens: 4096, truncate: false }
}

/// A real template by its golden's name.
fn golden(name: &str) -> String {
    let golden: Value = serde_json::from_slice(&reference(&format!("templates/{name}.json"))).unwrap();
    golden["template"].as_str().unwrap().into()
}

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn load_rows(encoder: &Encoder, rows: &str, settings: &LoadSettings) -> qern_train::Result<Dataset> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    std::fs::write(&path, rows).unwrap();
    load(&path, settings, encoder)
}

/// The text of each sequence with what is learnt in brackets.
fn shown(encoder: &Encoder, data: &Dataset) -> Vec<String> {
    let sequences = data.items.iter().flat_map(|item| &item.sequences);
    let show = |sequence: &qern_train::data::Sequence| {
        let mut text = String::new();
        let mut was = false;
        for (&token, &is) in sequence.tokens.iter().zip(&sequence.is_trained) {
            if is != was {
                text.push(if is { '[' } else { ']' });
                was = is;
            }
            text.push_str(&String::from_utf8_lossy(&encoder.tokenizer.decode(&[token], true)));
        }
        if was { text + "]" } else { text }
    };
    sequences.map(show).collect()
}

fn check(encoder: &Encoder, row: &str, expected: &[&str]) {
    let data = load_rows(encoder, row, &LoadSettings::default()).unwrap();
    assert_eq!(shown(encoder, &data), expected);
}

fn refused(encoder: &Encoder, rows: &str, expected: &str) {
    let message = load_rows(encoder, rows, &LoadSettings::default()).unwrap_err().to_string();
    assert!(message.contains(expected), "{message}");
}

const TWO_TURNS: &str = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"},{"role":"assistant","content":"d"}]}"#;

#[test]
fn the_assistants_turns_are_learnt_with_their_end() {
    check(
        &encoder(CHATML),
        TWO_TURNS,
        &[
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[d<|im_end|>]\n",
        ],
    );
    check(
        &Encoder { train_on: TrainOn::Last, ..encoder(CHATML) },
        TWO_TURNS,
        &[
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[d<|im_end|>]\n",
        ],
    );
    check(
        &Encoder { train_on: TrainOn::EveryTurn, ..encoder(CHATML) },
        TWO_TURNS,
        &[
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n",
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[d<|im_end|>]\n",
        ],
    );
    check(
        &Encoder { train_on: TrainOn::All, ..encoder(CHATML) },
        r#"{"prompt":"a","completion":"b"}"#,
        &["<|im_start|>[user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n]"],
    );
}

#[test]
fn messages_of_weight_zero_are_not_learnt() {
    let row = TWO_TURNS.replace(r#""content":"b""#, r#""content":"b","weight":0"#);
    check(
        &encoder(CHATML),
        &row,
        &[
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[d<|im_end|>]\n",
        ],
    );
    refused(&encoder(CHATML), &TWO_TURNS.replace(r#""content":"b""#, r#""content":"b","weight":2"#), "must be 0 or 1; given 2");
}

#[test]
fn special_tokens_in_messages_stay_text_and_end_nothing() {
    let data = load_rows(&encoder(CHATML), r#"{"prompt":"a","completion":"b<|im_end|>c"}"#, &LoadSettings::default()).unwrap();
    let encoder = encoder(CHATML);
    let end = encoder.eos[0];
    let ends = data.items[0].sequences[0].tokens.iter().filter(|&&token| token == end).count();
    assert_eq!(ends, 2, "one for each message");
    assert!(shown(&encoder, &data)[0].ends_with("[b<|im_end|>c<|im_end|>]\n"));
}

#[test]
fn a_template_that_shows_earlier_turns_otherwise_is_refused_unless_turns_are_apart() {
    // As reasoning models have it: only the last answer keeps its (empty) thoughts.
    let thinking = "{% for m in messages %}<|im_start|>{{ m.role }}\n\
                    {% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}\
                    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    refused(&encoder(thinking), TWO_TURNS, "line 1: message 2 cannot be learnt along with those behind it");
    check(
        &Encoder { train_on: TrainOn::EveryTurn, ..encoder(thinking) },
        TWO_TURNS,
        &[
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[<think>\n\n</think>\n\nb<|im_end|>]\n",
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[<think>\n\n</think>\n\nd<|im_end|>]\n",
        ],
    );
    // A prompt that opens what the whole does not have.
    let opens = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif");
    refused(
        &encoder(&opens),
        TWO_TURNS,
        "message 2 cannot be learnt: the model's chat template does not render it as the prompt for it goes on",
    );
    let endless = CHATML.replace("<|im_end|>\n{% endfor", "\n{% endfor");
    refused(&encoder(&endless), TWO_TURNS, "does not end the assistant's message");
}

#[test]
fn qwen3s_own_template_with_tools_is_learnt_right() {
    let encoder = encoder(&golden("qwen3"));
    let row = r#"{"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"messages":[
        {"role":"user","content":"a"},
        {"role":"assistant","content":"","tool_calls":[{"type":"function","function":{"name":"f","arguments":"{\"x\": 1}"}}]},
        {"role":"tool","content":"7"},
        {"role":"assistant","content":"b"}]}"#
        .replace('\n', "");
    let data = load_rows(&Encoder { train_on: TrainOn::EveryTurn, ..encoder }, &row, &LoadSettings::default()).unwrap();
    let texts = shown(&self::encoder(CHATML), &data);
    assert_eq!(texts.len(), 2);
    let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call><|im_end|>]\n";
    assert!(texts[0].ends_with(call) && texts[0].contains("<|im_start|>assistant\n["), "{}", texts[0]);
    assert!(texts[1].ends_with("b<|im_end|>]\n") && texts[1].matches('[').count() >= 1, "{}", texts[1]);
}

#[test]
fn plain_text_is_learnt_to_its_end() {
    let encoder = encoder(CHATML);
    let raw = LoadSettings { reading: Reading { raw: true, ..Reading::default() }, ..LoadSettings::default() };
    let data = load_rows(&encoder, r#"{"prompt":"a b","completion":" c"}"#, &raw).unwrap();
    let text = shown(&encoder, &data).remove(0);
    assert!(text.starts_with("a b[ c"), "{text}");
    let data = load_rows(&encoder, r#"{"text":"a b c d"}"#, &LoadSettings::default()).unwrap();
    assert!(shown(&encoder, &data)[0].starts_with("a[ b c d"));
    let bare = Encoder { template: None, ..self::encoder(CHATML) };
    refused(&bare, r#"{"prompt":"a","completion":"b"}"#, "the model has no chat template");
}

#[test]
fn bad_rows_are_named_by_line_and_fatal_unless_skipped() {
    let rows = "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\n{\"prompt\":\"a\",\"completion\":\"\"}\n{\"prompt\":\"c\",\"completion\":\"d\"}";
    let encoder = encoder(CHATML);
    refused(
        &encoder,
        rows,
        "2 of 4 rows cannot be trained on; correct them, or leave them out by `skip_bad_rows`:\n  line 2: it is no JSON",
    );
    refused(&encoder, rows, "\n  line 3: `completion` must not be empty");
    let data = load_rows(&encoder, rows, &LoadSettings { skip_bad_rows: true, ..LoadSettings::default() }).unwrap();
    assert_eq!((data.items.len(), data.report.num_bad, data.items[1].row), (2, 2, 4));
    let all_bad = load_rows(&encoder, "{}", &LoadSettings { skip_bad_rows: true, ..LoadSettings::default() });
    assert!(all_bad.unwrap_err().to_string().ends_with("; no row is left"));
    refused(&encoder, "", "must have at least one example; it is empty");
}

#[test]
fn kinds_are_not_mixed_even_when_bad_rows_are_skipped() {
    let rows = "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"text\":\"a b\"}";
    let skipping = LoadSettings { skip_bad_rows: true, ..LoadSettings::default() };
    let message = load_rows(&encoder(CHATML), rows, &skipping).unwrap_err().to_string();
    assert!(message.contains("line 1 is completion (`prompt`, `completion`), line 2 is text (`text`)"), "{message}");
}

#[test]
fn long_rows_are_refused_or_cut() {
    let row = r#"{"prompt":"a","completion":"b c d e f g h i j k l m n o p"}"#;
    let short = Encoder { max_tokens: 12, ..encoder(CHATML) };
    refused(&short, row, "tokens, and at most 12 fit; shorten it, raise `max_tokens` or cut it by `truncate`");
    let cutting = Encoder { truncate: true, ..short };
    let data = load_rows(&cutting, row, &LoadSettings::default()).unwrap();
    assert_eq!((data.items[0].num_tokens(), data.report.num_truncated), (12, 1));
    let nothing = Encoder { max_tokens: 5, ..cutting };
    refused(&nothing, row, "line 1: no token of it is learnt");
}

#[test]
fn a_preference_is_two_sequences_of_one_prompt() {
    check(
        &encoder(CHATML),
        r#"{"prompt":"a","chosen":"b","rejected":"c"}"#,
        &[
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n",
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[c<|im_end|>]\n",
        ],
    );
}
