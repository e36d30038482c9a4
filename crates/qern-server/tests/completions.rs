//! `/v1/completions`, `/v1/embeddings` and the tokenizer's endpoints, as OpenAI's clients and lm-eval read them.

mod support;

use serde_json::{Value, json};
use support::start;

const COMPLETIONS: &str = "/v1/completions";

/// Makes the parrot answer `hi`.
const PROMPT: &str = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";

fn token_ids(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[test]
fn a_text_goes_on_sixteen_tokens_by_default() {
    let server = start();
    let answer = server.ok(COMPLETIONS, &json!({"model": "parrot", "prompt": PROMPT}));
    assert_eq!((&answer["object"], &answer["choices"][0]["text"]), (&json!("text_completion"), &json!("Turn 1: *hi* é")));
    let counting = PROMPT.replace("hi", "count");
    let answer = server.ok(COMPLETIONS, &json!({"prompt": counting}));
    assert_eq!(answer["choices"][0]["text"], "1 2 3 4 5 6 7 8 ");
    assert_eq!((&answer["choices"][0]["finish_reason"], &answer["usage"]["completion_tokens"]), (&json!("length"), &json!(16)));
}

#[test]
fn prompts_are_texts_or_tokens_one_or_many() {
    let server = start();
    let texts = |prompt: Value| -> Vec<String> {
        let answer = server.ok(COMPLETIONS, &json!({"prompt": prompt, "echo": true, "max_tokens": 0}));
        let choices = answer["choices"].as_array().unwrap().clone();
        assert!(choices.iter().enumerate().all(|(index, choice)| choice["index"] == index));
        choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(texts(json!("ab")), ["ab"]);
    assert_eq!(texts(json!(token_ids("ab"))), ["ab"]);
    assert_eq!(texts(json!(["ab", "c"])), ["ab", "c"]);
    assert_eq!(texts(json!([token_ids("ab"), token_ids("c")])), ["ab", "c"]);
    for (wrong, part) in [
        (json!({}), "be a text, a list of token ids, or a list of either; given an object"),
        (json!([1, "a"]), "given 1"),
        (json!([-1]), "given a list"),
        (json!([999]), "tokens below 258; given 999"),
        (json!(vec!["a"; 129]), "1 to 128 prompts; given 129"),
    ] {
        let (status, message, _) = server.refused(COMPLETIONS, &json!({"prompt": wrong}));
        assert_eq!(status, 400);
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn answers_to_several_prompts_are_numbered_through() {
    let server = start();
    let body = json!({"prompt": [PROMPT, PROMPT.replace("hi", "ho")], "n": 2});
    let expected = ["Turn 1: *hi* é", "Turn 1: *hi* é", "Turn 1: *ho* é", "Turn 1: *ho* é"];
    let answer = server.ok(COMPLETIONS, &body);
    let texts: Vec<&Value> = answer["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect();
    assert_eq!(texts, expected);
    let mut streamed = vec![String::new(); 4];
    let mut with_stream = body.clone();
    with_stream["stream"] = true.into();
    with_stream["stream_options"] = json!({"include_usage": true});
    let events = server.events(COMPLETIONS, &with_stream);
    for choice in events.iter().filter_map(|event| event["choices"].as_array()).flatten() {
        streamed[choice["index"].as_u64().unwrap() as usize].push_str(choice["text"].as_str().unwrap());
    }
    assert_eq!(streamed, expected);
    let tokens = |usage: &Value| (usage["prompt_tokens"].clone(), usage["completion_tokens"].clone());
    assert_eq!(tokens(&events.last().unwrap()["usage"]), tokens(&answer["usage"]));
}

#[test]
fn an_evaluation_reads_the_log_probabilities_of_context_and_continuation() {
    let server = start();
    // As lm-eval asks: tokens of context and continuation, the prompt given back, one token more.
    let text = format!("{PROMPT}Turn");
    let ids: Vec<u32> = serde_json::from_value(server.ok("/tokenize", &json!({"prompt": text}))["tokens"].clone()).unwrap();
    let start_of_answer = ids.len() - 4;
    let body = json!({"prompt": [ids], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": true});
    let answer = server.ok(COMPLETIONS, &body);
    let logprobs = &answer["choices"][0]["logprobs"];
    let values = logprobs["token_logprobs"].as_array().unwrap();
    assert_eq!(values.len(), ids.len() + 1);
    assert!(values[0].is_null());
    for index in start_of_answer..values.len() - 1 {
        let best =
            logprobs["top_logprobs"][index].as_object().unwrap().values().filter_map(Value::as_f64).fold(f64::MIN, f64::max);
        assert_eq!(values[index].as_f64().unwrap(), best, "the parrot's own answer is greedy at {index}");
    }
    let unlikely = start_of_answer - 1;
    let best =
        logprobs["top_logprobs"][unlikely].as_object().unwrap().values().filter_map(Value::as_f64).fold(f64::MIN, f64::max);
    assert!(values[unlikely].as_f64().unwrap() < best, "and its question is not");
}

#[test]
fn a_streamed_echo_begins_with_the_prompt_and_its_log_probabilities() {
    let server = start();
    let body = json!({"prompt": PROMPT, "echo": true, "logprobs": 0, "max_tokens": 3});
    let whole = server.ok(COMPLETIONS, &body)["choices"][0].clone();
    let mut streaming = body;
    streaming["stream"] = true.into();
    let events = server.events(COMPLETIONS, &streaming);
    let join = |field: &str| -> Vec<Value> {
        events.iter().filter_map(|event| event["choices"][0]["logprobs"][field].as_array().cloned()).flatten().collect()
    };
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(Value::from(text), whole["text"]);
    for field in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(Value::from(join(field)), whole["logprobs"][field], "{field}");
    }
}

#[test]
fn tokens_can_be_named_by_their_ids() {
    let server = start();
    let answer =
        server.ok(COMPLETIONS, &json!({"prompt": PROMPT, "max_tokens": 2, "logprobs": 1, "return_tokens_as_token_ids": true}));
    assert_eq!(answer["choices"][0]["logprobs"]["tokens"], json!(["token_id:84", "token_id:117"]));
}

#[test]
fn beam_search_answers_with_its_best() {
    let server = start();
    let answer = server.ok(COMPLETIONS, &json!({"prompt": PROMPT, "use_beam_search": true, "n": 2, "max_tokens": 20}));
    assert_eq!(answer["choices"][0]["text"], "Turn 1: *hi* é");
    let (_, message, _) = server.refused(COMPLETIONS, &json!({"prompt": PROMPT, "length_penalty": 2}));
    assert_eq!(message, "`length_penalty` needs `use_beam_search`: true; set it, or leave `length_penalty` out");
}

#[test]
fn embeddings_are_the_same_as_numbers_and_as_base64() {
    let server = start();
    let embed = |more: Value| {
        let mut body = json!({"input": ["ab", "c"], "normalize": false, "pooling": "last"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.ok("/v1/embeddings", &body)
    };
    // The parrot's hidden state: how much it has seen, and the last byte.
    let answer = embed(json!({}));
    assert_eq!(answer["data"][0], json!({"object": "embedding", "index": 0, "embedding": [2.0, 98.0]}));
    assert_eq!(answer["data"][1]["embedding"], json!([1.0, 99.0]));
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    assert_eq!(embed(json!({"encoding_format": "base64"}))["data"][0]["embedding"], "AAAAQAAAxEI=");
    assert_eq!(embed(json!({"pooling": "mean", "dimensions": 2}))["data"][0]["embedding"], json!([1.5, 97.5]));
}

#[test]
fn embeddings_refuse_what_would_be_nonsense() {
    let server = start();
    let check = |body: Value, part: &str| {
        let (status, message, _) = server.refused("/v1/embeddings", &body);
        assert_eq!(status, 400);
        assert!(message.contains(part), "{message}");
    };
    check(json!({"input": [1, 2, 3]}), "check_embedding_ctx_length=False");
    check(json!({"input": [[1, 2], [3]]}), "check_embedding_ctx_length=False");
    check(json!({"input": ""}), "`input` must hold no empty text");
    check(json!({"input": []}), "`input` must hold 1 to 2048 inputs; given 0");
    check(json!({"input": "a", "dimensions": 3}), "be the model's own width, 2, or left out; given 3");
    check(json!({"input": "x".repeat(3000)}), "the prompt has 3000 tokens, and at most 2047 fit");
    check(json!({}), "`input` is missing");
}

#[test]
fn texts_become_tokens_and_texts_again() {
    let server = start();
    let answer = server.ok("/tokenize", &json!({"prompt": "a<|im_end|>é", "return_token_strs": true}));
    assert_eq!(answer["tokens"], json!([97, 257, 195, 169]));
    assert_eq!((&answer["count"], &answer["max_model_len"]), (&json!(4), &json!(2048)));
    assert_eq!(answer["token_strs"][1], "<|im_end|>");
    assert_eq!(server.ok("/detokenize", &json!({"tokens": answer["tokens"]}))["prompt"], "a<|im_end|>é");
    let chat = server.ok("/tokenize", &json!({"messages": [{"role": "user", "content": "hi"}]}));
    let expected = server.ok("/tokenize", &json!({"prompt": PROMPT}));
    assert_eq!(chat["tokens"], expected["tokens"]);
    assert_eq!(server.refused("/detokenize", &json!({"tokens": [258]})).1, "`tokens` must hold ids below 258; given 258");
    assert_eq!(server.refused("/tokenize", &json!({})).1, "`prompt` is missing; the request must have it");
    let (status, info) = server.get("/tokenizer_info?model=parrot");
    assert_eq!((status, &info["vocab_size"]), (200, &json!(258)));
}

#[test]
fn the_openapi_document_names_every_field() {
    let server = start();
    let (status, document) = server.get("/openapi.json");
    assert_eq!(status, 200);
    let body = &document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(body["properties"]["temperature"]["maximum"], 100.0);
    assert_eq!(body["additionalProperties"], false);
    assert_eq!(body["required"], json!(["messages"]));
}
