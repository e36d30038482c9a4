//! Embeddings against their definition, among other work, in small chunks and small pools.

use flume::Receiver;

use super::toy::*;
use crate::embed::Part;
use crate::*;

fn request(pooling: Pooling, normalize: bool) -> EmbedRequest {
    let inputs = vec![prompt(1, 1), prompt(64, 2), prompt(130, 3), prompt(200, 4)];
    EmbedRequest { inputs, pooling, normalize, ..EmbedRequest::default() }
}

fn expected(request: &EmbedRequest) -> Vec<Vec<f32>> {
    let pool = |input: &Vec<TokenId>| {
        let rows: Vec<Vec<f32>> = (1..=input.len()).map(|len| hidden_after(&input[..len])).collect();
        let rows = if request.pooling == Pooling::Last { &rows[rows.len() - 1..] } else { &rows[..] };
        let mean = |at: usize| rows.iter().map(|row| f64::from(row[at])).sum::<f64>() / rows.len() as f64;
        let mean: Vec<f64> = (0..WIDTH).map(mean).collect();
        let length = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
        mean.iter().map(|x| (x * if request.normalize { 1.0 / length } else { 1.0 }) as f32).collect()
    };
    request.inputs.iter().map(pool).collect()
}

fn vectors(parts: &Receiver<Part>, num_inputs: usize) -> Vec<Vec<f32>> {
    let mut vectors = vec![Vec::new(); num_inputs];
    for part in parts.try_iter() {
        let part = part.unwrap();
        assert!(std::mem::replace(&mut vectors[part.index], part.vector).is_empty(), "an input came twice");
    }
    vectors
}

#[test]
fn embeddings_are_pooled_hidden_states_whatever_else_runs() {
    for (num_pages, max_batch_tokens, max_sequences) in [(400, 512, 16), (400, 7, 3), (12, 64, 8), (5, 16, 4)] {
        for (pooling, normalize) in [(Pooling::Mean, true), (Pooling::Mean, false), (Pooling::Last, true), (Pooling::Last, false)]
        {
            let mut bench = Bench::new(num_pages, max_batch_tokens, max_sequences);
            let generated =
                |salt| GenerateRequest { prompt: prompt(70, salt), max_tokens: Some(60), seed: Some(1), ..Default::default() };
            let (_, before) = bench.submit(generated(1));
            let request = request(pooling, normalize);
            let parts = bench.embed(&request);
            let (_, after) = bench.submit(generated(2));
            bench.finish();
            assert_eq!(vectors(&parts, 4), expected(&request), "{num_pages} pages, {pooling:?}");
            for (events, salt) in [(before, 1), (after, 2)] {
                assert_eq!(collect(events.try_iter()), alone(generated(salt)));
            }
        }
    }
}

#[test]
fn a_cancelled_request_for_embeddings_leaves_nothing_behind() {
    let mut bench = Bench::new(6, 16, 4);
    let parts = bench.embed(&request(Pooling::Mean, true));
    (0..4).for_each(|_| _ = bench.scheduler.step());
    bench.scheduler.cancel(1);
    bench.finish();
    assert!(parts.try_iter().any(|part| matches!(part, Err(Error::Cancelled))));
}

#[test]
fn requests_that_cannot_be_embedded_are_refused() {
    let limits = Limits { vocab_size: 24, max_positions: 100, num_pages: 9, max_sequences: 4, hidden_size: Some(5) };
    let refused = |inputs: &[&[TokenId]], limits: Limits| {
        let inputs = inputs.iter().map(|input| input.to_vec()).collect();
        EmbedRequest { inputs, ..EmbedRequest::default() }.validate(&limits).unwrap_err().to_string()
    };
    assert_eq!(refused(&[], limits), "`inputs` must be 1 to 2048; given 0");
    assert_eq!(refused(&[&[1], &[]], limits), "`inputs` must hold at least one token; given none");
    assert_eq!(refused(&[&[24]], limits), "`inputs` must hold tokens below 24; given 24");
    assert!(refused(&[&[1; 100]], limits).starts_with("the prompt has 100 tokens, and at most 99 fit"));
    let other = Limits { hidden_size: None, ..limits };
    assert_eq!(refused(&[&[1]], other), "`inputs` must go to a model that gives hidden states; given another one");
}
