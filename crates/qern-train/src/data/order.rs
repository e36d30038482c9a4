//! Which examples are held out, and which make up each step. Everything follows from the seed and the step's number, so that
//! nothing of it has to be stored: a resumed run asks for step 1,234 and gets what the uninterrupted one got.

use crate::random::{Draws, Purpose};

/// How steps are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OrderSettings {
    /// Of the run.
    pub seed: u64,
    /// How many examples a step has.
    pub step: StepSize,
    /// Put examples of about the same length into one step.
    pub group_by_length: bool,
}

/// How many examples a step has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepSize {
    /// This many.
    Examples(usize),
    /// As many as fit into this many tokens (packing). Packed examples do not see each other: a batch is ragged and knows where
    /// each one begins.
    Tokens(usize),
}

/// The steps of a run.
#[derive(Clone, Debug)]
pub struct Order {
    settings: OrderSettings,
    lens: Vec<usize>, // [num_items] tokens
    epoch: u64,
    /// The run's number of the epoch's first step.
    first_step: u64,
    steps: Vec<Vec<usize>>,
}

/// Open packs that an example may still be put into.
const MAX_OPEN_PACKS: usize = 64;
/// Steps among which examples are sorted by length: enough to group, few enough to stay random.
const STEPS_PER_GROUP: usize = 50;

impl Order {
    /// Steps over examples of these lengths, in tokens.
    ///
    /// # Panics
    /// If there are none, or a step would have none.
    pub fn new(lens: Vec<usize>, settings: OrderSettings) -> Self {
        assert!(!lens.is_empty(), "there are examples");
        let mut order = Self { settings, lens, epoch: 0, first_step: 0, steps: Vec::new() };
        order.steps = order.epoch_steps(0);
        order
    }

    /// The examples of a step of the run, counted from 0, by their index.
    pub fn step(&mut self, step: u64) -> &[usize] {
        if step < self.first_step {
            (self.epoch, self.first_step) = (0, 0);
            self.steps = self.epoch_steps(0);
        }
        while step >= self.first_step + self.steps.len() as u64 {
            self.first_step += self.steps.len() as u64;
            self.epoch += 1;
            self.steps = self.epoch_steps(self.epoch);
        }
        &self.steps[(step - self.first_step) as usize]
    }

    /// The epoch of the step asked for last, with the part of it that is done when the step is.
    pub fn epoch_after(&mut self, step: u64) -> f64 {
        self.step(step);
        self.epoch as f64 + (step + 1 - self.first_step) as f64 / self.steps.len() as f64
    }

    /// The steps of so many epochs.
    pub fn num_steps(&self, epochs: u64) -> u64 {
        match self.settings.step {
            StepSize::Examples(size) => epochs * self.lens.len().div_ceil(size) as u64,
            StepSize::Tokens(_) => (0..epochs).map(|epoch| self.epoch_steps(epoch).len() as u64).sum(),
        }
    }

    fn epoch_steps(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut draws = Draws::new(self.settings.seed, Purpose::Order, epoch);
        let mut items: Vec<usize> = (0..self.lens.len()).collect();
        draws.shuffle(&mut items);
        let group = match self.settings.step {
            StepSize::Examples(size) => size * STEPS_PER_GROUP,
            StepSize::Tokens(size) => (size * STEPS_PER_GROUP * self.lens.len() / self.lens.iter().sum::<usize>().max(1)).max(1),
        };
        if self.settings.group_by_length {
            // Ties keep the random order: the sort is stable.
            items.chunks_mut(group).for_each(|items| items.sort_by_key(|&item| std::cmp::Reverse(self.lens[item])));
        }
        let mut steps = match self.settings.step {
            StepSize::Examples(size) => items.chunks(size).map(<[usize]>::to_vec).collect(),
            StepSize::Tokens(size) => self.packs(&items, size),
        };
        if self.settings.group_by_length || matches!(self.settings.step, StepSize::Tokens(_)) {
            draws.shuffle(&mut steps);
        }
        steps
    }

    /// First fit, in order, among the packs that are still open.
    fn packs(&self, items: &[usize], size: usize) -> Vec<Vec<usize>> {
        let mut packs: Vec<(usize, Vec<usize>)> = Vec::new();
        for &item in items {
            let len = self.lens[item];
            let open = packs.len().saturating_sub(MAX_OPEN_PACKS);
            match packs[open..].iter_mut().find(|(used, _)| used + len <= size) {
                Some((used, pack)) => {
                    *used += len;
                    pack.push(item);
                }
                None => packs.push((len, vec![item])),
            }
        }
        packs.into_iter().map(|(_, pack)| pack).collect()
    }
}

/// Cuts a step into batches of at most `max_tokens` tokens, but of at least one example, for memory's sake.
pub fn batches<'a>(items: &'a [usize], lens: &[usize], max_tokens: usize) -> Vec<&'a [usize]> {
    let (mut batches, mut start, mut used) = (Vec::new(), 0, 0);
    for (index, &item) in items.iter().enumerate() {
        if index > start && used + lens[item] > max_tokens {
            batches.push(&items[start..index]);
            (start, used) = (index, 0);
        }
        used += lens[item];
    }
    if start < items.len() {
        batches.push(&items[start..]);
    }
    batches
}

/// Divides `num_items` examples: those to train on and `num_held_out` others, both in the order of the file.
pub fn hold_out(num_items: usize, num_held_out: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut items: Vec<usize> = (0..num_items).collect();
    Draws::new(seed, Purpose::HeldOut, 0).shuffle(&mut items);
    let mut held_out = items.split_off(num_items - num_held_out.min(num_items));
    items.sort_unstable();
    held_out.sort_unstable();
    (items, held_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(num: usize) -> Vec<usize> {
        (0..num).map(|i| 1 + i * 7 % 13).collect()
    }

    fn order(step: StepSize, group_by_length: bool) -> Order {
        Order::new(lens(101), OrderSettings { seed: 5, step, group_by_length })
    }

    #[test]
    fn every_epoch_has_every_example_once_in_another_order() {
        for step in [StepSize::Examples(8), StepSize::Tokens(40)] {
            for group_by_length in [false, true] {
                let mut order = order(step, group_by_length);
                let mut orders = Vec::new();
                for epoch in 0..3 {
                    let items: Vec<usize> =
                        (order.num_steps(epoch)..order.num_steps(epoch + 1)).flat_map(|step| order.step(step).to_vec()).collect();
                    let mut sorted = items.clone();
                    sorted.sort_unstable();
                    assert_eq!(sorted, (0..101).collect::<Vec<_>>(), "{step:?} epoch {epoch}");
                    orders.push(items);
                }
                assert!(orders[0] != orders[1] && orders[1] != orders[2]);
            }
        }
    }

    #[test]
    fn a_step_is_the_same_whatever_was_asked_for_before() {
        let mut forward = order(StepSize::Tokens(30), true);
        let steps: Vec<_> = (0..60).map(|step| forward.step(step).to_vec()).collect();
        for step in [59, 3, 40, 0, 17] {
            assert_eq!(forward.step(step), steps[step as usize]);
            assert_eq!(order(StepSize::Tokens(30), true).step(step), steps[step as usize]);
        }
    }

    #[test]
    fn packs_hold_no_more_than_their_size_and_leave_little_empty() {
        let mut order = order(StepSize::Tokens(40), false);
        let num_steps = order.num_steps(1);
        let used: Vec<usize> = (0..num_steps).map(|step| order.step(step).iter().map(|&item| lens(101)[item]).sum()).collect();
        assert!(used.iter().all(|&used| used <= 40), "{used:?}");
        assert!(num_steps as usize * 40 < lens(101).iter().sum::<usize>() * 11 / 10, "{used:?}");
        let long = Order::new(vec![50, 3], OrderSettings { seed: 1, step: StepSize::Tokens(40), group_by_length: false });
        assert_eq!(long.num_steps(1), 2, "an example longer than a pack is one of its own");
    }

    #[test]
    fn grouped_steps_have_lengths_close_together() {
        let spread = |mut order: Order| -> usize {
            let spread = |items: &[usize]| {
                let lens = items.iter().map(|&item| lens(101)[item]);
                lens.clone().max().unwrap() - lens.min().unwrap()
            };
            (0..order.num_steps(1)).map(|step| spread(order.step(step))).sum()
        };
        assert!(spread(order(StepSize::Examples(8), true)) * 3 < spread(order(StepSize::Examples(8), false)));
    }

    #[test]
    fn batches_keep_to_their_tokens_and_the_order() {
        let lens = [5, 5, 5, 20, 1];
        let check = |max_tokens, expected: &[&[usize]]| assert_eq!(batches(&[0, 1, 2, 3, 4], &lens, max_tokens), expected);
        check(100, &[&[0, 1, 2, 3, 4]]);
        check(10, &[&[0, 1], &[2], &[3], &[4]]);
        check(1, &[&[0], &[1], &[2], &[3], &[4]]);
        check(21, &[&[0, 1, 2], &[3, 4]]);
    }

    #[test]
    fn held_out_examples_are_never_trained_on() {
        let (train, held_out) = hold_out(50, 7, 3);
        assert_eq!((train.len(), held_out.len()), (43, 7));
        assert!(held_out.iter().all(|item| !train.contains(item)));
        assert_ne!(held_out, hold_out(50, 7, 4).1);
        assert_eq!(hold_out(50, 7, 3).1, held_out);
        assert_eq!(hold_out(3, 0, 1), (vec![0, 1, 2], vec![]));
    }
}
