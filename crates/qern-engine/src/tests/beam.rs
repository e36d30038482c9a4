//! Beam search against an exhaustive search and against a plain transcription of its definition.

use super::toy::*;
use crate::*;

const ALLOWED: [TokenId; 5] = [EOS, 4, 5, 6, 7];

fn request(width: usize, n: usize, max_tokens: usize, length_penalty: f32, early_stopping: EarlyStopping) -> GenerateRequest {
    let mut sampling = SamplingParams::greedy();
    sampling.logit_bias = (0..VOCAB as u32).filter(|id| !ALLOWED.contains(id)).map(|id| (id, -100.0)).collect();
    GenerateRequest {
        prompt: prompt(60, width as u32),
        sampling,
        max_tokens: Some(max_tokens),
        n,
        beam: Some(BeamParams { width, length_penalty, early_stopping }),
        ..GenerateRequest::default()
    }
}

fn logprobs(history: &[TokenId]) -> Vec<f64> {
    let logits = logits_after(history);
    let total = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
    logits.iter().map(|&l| f64::from(l) - total).collect()
}

/// Every answer of at most `max_tokens` and its score, best first.
fn exhaustive(prompt: &[TokenId], max_tokens: usize, length_penalty: f64) -> Vec<(f64, Vec<TokenId>)> {
    fn walk(history: &mut Vec<TokenId>, num_prompt: usize, left: usize, sum: f64, out: &mut Vec<(f64, usize, Vec<TokenId>)>) {
        let num_generated = history.len() - num_prompt;
        if left == 0 {
            return out.push((sum, num_generated, history[num_prompt..].to_vec()));
        }
        let logprobs = logprobs(history);
        for token in ALLOWED {
            let sum = sum + logprobs[token as usize];
            if token == EOS {
                out.push((sum, num_generated + 1, history[num_prompt..].to_vec()));
            } else {
                history.push(token);
                walk(history, num_prompt, left - 1, sum, out);
                history.pop();
            }
        }
    }
    let mut all = Vec::new();
    walk(&mut prompt.to_vec(), prompt.len(), max_tokens, 0.0, &mut all);
    let mut scored: Vec<_> =
        all.into_iter().map(|(sum, len, tokens)| (sum / (len as f64).powf(length_penalty), tokens)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored
}

/// transformers' beam search, transcribed: two loops over plain vectors.
fn transcription(request: &GenerateRequest) -> Vec<(f64, Vec<TokenId>)> {
    let params = request.beam.unwrap();
    let (width, max_tokens) = (params.width, request.max_tokens.unwrap());
    let score = |sum: f64, len: usize| sum / (len as f64).powf(f64::from(params.length_penalty));
    let mut beams = vec![(0.0, Vec::new())];
    let mut done: Vec<(f64, Vec<TokenId>)> = Vec::new();
    for len in 1..=max_tokens {
        let mut next = Vec::new();
        for (sum, tokens) in &beams {
            let logprobs = logprobs(&[request.prompt.as_slice(), tokens].concat());
            next.extend(ALLOWED.iter().map(|&token| (sum + logprobs[token as usize], tokens.clone(), token)));
        }
        next.sort_by(|a, b| b.0.total_cmp(&a.0));
        next.truncate(2 * width);
        beams.clear();
        for (rank, (sum, mut tokens, token)) in next.into_iter().enumerate() {
            if token == EOS {
                if rank < width {
                    done.push((score(sum, len), tokens));
                    done.sort_by(|a, b| b.0.total_cmp(&a.0));
                    done.truncate(width);
                }
            } else if beams.len() < width {
                tokens.push(token);
                beams.push((sum, tokens));
            }
        }
        if done.len() == width {
            let best = beams.iter().map(|beam| beam.0).fold(f64::NEG_INFINITY, f64::max);
            let worst = done[width - 1].0;
            let over = match params.early_stopping {
                EarlyStopping::Immediate => true,
                EarlyStopping::Heuristic => worst >= score(best, len),
                EarlyStopping::Never if params.length_penalty > 0.0 => worst >= score(best, max_tokens),
                EarlyStopping::Never => worst >= score(best, len),
            };
            if over {
                return done;
            }
        }
    }
    done.extend(beams.into_iter().map(|(sum, tokens)| (score(sum, max_tokens), tokens)));
    done.sort_by(|a, b| b.0.total_cmp(&a.0));
    done.truncate(width);
    done
}

fn check(outcomes: &Outcomes, expected: &[(f64, Vec<TokenId>)]) {
    assert_eq!(outcomes.failed, None);
    for (rank, (answer, (score, tokens))) in outcomes.answers.iter().zip(expected).enumerate() {
        assert_eq!(&answer.tokens, tokens, "answer {rank}");
        assert!((f64::from(answer.score.unwrap()) - score).abs() < 1e-4);
        assert!(answer.text.len() >= answer.tokens.len());
    }
}

#[test]
fn a_beam_as_wide_as_the_tree_finds_the_exhaustive_best() {
    for (max_tokens, length_penalty) in [(3, 1.0), (3, 0.0), (3, -1.0), (3, 2.0)] {
        let request = request(64, 10, max_tokens, length_penalty, EarlyStopping::Never);
        let outcomes = Bench::new(400, 512, 64).run(vec![request.clone()]).remove(0);
        assert_eq!(outcomes.answers.len(), 10);
        check(&outcomes, &exhaustive(&request.prompt, max_tokens, f64::from(length_penalty)));
    }
}

#[test]
fn beams_equal_the_plain_transcription() {
    for width in 1..8 {
        for length_penalty in [-0.5, 0.0, 1.0, 1.7] {
            for early_stopping in [EarlyStopping::Immediate, EarlyStopping::Heuristic, EarlyStopping::Never] {
                let request = request(width, width, 12, length_penalty, early_stopping);
                check(&alone(request.clone()), &transcription(&request));
            }
        }
    }
}

#[test]
fn beams_share_pages_and_survive_preemption() {
    let requests = || vec![request(4, 1, 120, 1.0, EarlyStopping::Never), request(3, 3, 120, 1.0, EarlyStopping::Never)];
    let expected: Vec<Outcomes> = requests().into_iter().map(alone).collect();
    let mut preempted = 0;
    for num_pages in [9, 10, 11, 12, 13] {
        let mut bench = Bench::new(num_pages, 64, 8);
        assert_eq!(bench.run(requests()), expected, "{num_pages} pages");
        preempted += bench.scheduler.stats().preemptions;
    }
    assert!(preempted > 0);
}

#[test]
fn a_beam_ends_at_a_stop_string() {
    let mut request = request(4, 4, 20, 1.0, EarlyStopping::Never);
    request.stop = vec!["ab".into(), "d".into()];
    let outcomes = alone(request);
    assert!(outcomes.answers.iter().any(|answer| matches!(answer.reason, Some(FinishReason::StopString(_)))));
    assert!(outcomes.answers.iter().all(|answer| !answer.text.contains("ab") && !answer.text.contains('d')));
}
