//! The input of several linear layers, prepared once for each kind of activation that their weights multiply with.

use crate::error::Result;
use qern_kernels::activation::{ActivationKind, Activations};
use qern_kernels::isa::Isa;
use qern_kernels::matrix::PackedMatrix;
use qern_kernels::pool::Pool;

/// Prepared activations by kind; buffers are kept from use to use.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    activations: Vec<Activations>,
    /// How many of `activations` the last `prepare` filled.
    num_prepared: usize,
}

impl Inputs {
    /// Prepares `rows`, `[num_tokens, cols]`, for every kind among `weights`.
    pub fn prepare(&mut self, pool: &Pool, isa: Isa, weights: &[&PackedMatrix], rows: &[f32]) -> Result<()> {
        self.num_prepared = 0;
        for weight in weights {
            let kind = weight.activation_kind();
            if self.find(kind).is_some() {
                continue;
            }
            if self.activations.len() == self.num_prepared {
                self.activations.push(Activations::new());
            }
            self.activations[self.num_prepared].prepare(pool, isa, kind, rows, weight.cols())?;
            self.num_prepared += 1;
        }
        Ok(())
    }

    /// The activations for a matrix among those prepared for.
    pub fn of(&self, weight: &PackedMatrix) -> &Activations {
        self.find(weight.activation_kind()).expect("prepared for this matrix")
    }

    fn find(&self, kind: ActivationKind) -> Option<&Activations> {
        self.activations[..self.num_prepared].iter().find(|a| a.kind() == kind)
    }
}
